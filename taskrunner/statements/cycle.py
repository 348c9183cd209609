"""The hot path in SQL: what ends a task and claims the next ones, in one statement, and what finds out where to claim.

Every write carries the fence: `id`, `claim_no` and `runner_id` match and the state is `running`. Rows that somebody
else has locked are skipped (`SKIP LOCKED`), so that one foreign lock never stalls a batch; the store reports them as
left over, and they are tried again.
"""

# Whoever may write dead letters may have written one under this id, whose task lives: the true one takes its place. It
# must not keep the task from being buried, and the whole batch with it. A part of each INSERT of dead letters.
OVERWRITTEN = """
    ON CONFLICT (id) DO UPDATE
       SET (finished_at, started_at, maturity_at, created_at, claim_no, run_seconds, priority, tries,
           crashes, max_retries, tenant, queue, type, runner_id, unique_key, requeued_from, schedule_id,
           tick_at, payload, meta, errors, progress,
           requeued_as)
         = (EXCLUDED.finished_at, EXCLUDED.started_at, EXCLUDED.maturity_at, EXCLUDED.created_at,
           EXCLUDED.claim_no, EXCLUDED.run_seconds, EXCLUDED.priority, EXCLUDED.tries, EXCLUDED.crashes,
           EXCLUDED.max_retries, EXCLUDED.tenant, EXCLUDED.queue, EXCLUDED.type, EXCLUDED.runner_id,
           EXCLUDED.unique_key, EXCLUDED.requeued_from, EXCLUDED.schedule_id, EXCLUDED.tick_at,
           EXCLUDED.payload, EXCLUDED.meta, EXCLUDED.errors, EXCLUDED.progress,
           NULL)
"""

# Counts what `ended` returns, in the same statement, so that counts and history always agree. A part of others.
# The thirteen buckets are those between %(bounds)s, in seconds (buckets.BOUNDS).
COUNTED = """counted AS (
    INSERT INTO taskrunner.task_stats AS s (minute, runner_id, tenant, queue, type, outcome, count,
           run_seconds, wait_seconds, run_histogram, wait_histogram)
    SELECT date_trunc('minute', taskrunner.clock()), %(runner_id)s, b.tenant, b.queue, b.type, b.outcome, count(*),
           sum(b.run_seconds), sum(b.wait_seconds),
           ARRAY[count(*) FILTER (WHERE b.run = 0), count(*) FILTER (WHERE b.run = 1),
                 count(*) FILTER (WHERE b.run = 2), count(*) FILTER (WHERE b.run = 3),
                 count(*) FILTER (WHERE b.run = 4), count(*) FILTER (WHERE b.run = 5),
                 count(*) FILTER (WHERE b.run = 6), count(*) FILTER (WHERE b.run = 7),
                 count(*) FILTER (WHERE b.run = 8), count(*) FILTER (WHERE b.run = 9),
                 count(*) FILTER (WHERE b.run = 10), count(*) FILTER (WHERE b.run = 11),
                 count(*) FILTER (WHERE b.run = 12)],
           ARRAY[count(*) FILTER (WHERE b.wait = 0), count(*) FILTER (WHERE b.wait = 1),
                 count(*) FILTER (WHERE b.wait = 2), count(*) FILTER (WHERE b.wait = 3),
                 count(*) FILTER (WHERE b.wait = 4), count(*) FILTER (WHERE b.wait = 5),
                 count(*) FILTER (WHERE b.wait = 6), count(*) FILTER (WHERE b.wait = 7),
                 count(*) FILTER (WHERE b.wait = 8), count(*) FILTER (WHERE b.wait = 9),
                 count(*) FILTER (WHERE b.wait = 10), count(*) FILTER (WHERE b.wait = 11),
                 count(*) FILTER (WHERE b.wait = 12)]
      FROM (SELECT e.tenant, e.queue, e.type, e.outcome, e.run_seconds, e.wait_seconds,
                   width_bucket(e.run_seconds, %(bounds)s::float8[]) AS run,
                   width_bucket(e.wait_seconds, %(bounds)s::float8[]) AS wait
              FROM ended e ORDER BY e.tenant, e.queue, e.type, e.outcome) b
     GROUP BY b.tenant, b.queue, b.type, b.outcome
    ON CONFLICT (minute, runner_id, tenant, queue, type, outcome) DO UPDATE
       SET count = s.count + EXCLUDED.count,
           run_seconds = s.run_seconds + EXCLUDED.run_seconds,
           wait_seconds = s.wait_seconds + EXCLUDED.wait_seconds,
           run_histogram = taskrunner.add_histograms(s.run_histogram, EXCLUDED.run_histogram),
           wait_histogram = taskrunner.add_histograms(s.wait_histogram, EXCLUDED.wait_histogram)
)"""

# Tells whoever waits for a task's end, in the statement that ends it: a condition on `gone` that is always true. Only
# an awaited row pays: a NOTIFY holds a lock of the whole server during the commit. A part of others.
TOLD = "CASE WHEN g.awaited THEN pg_notify('taskrunner_ended', g.id::text) IS NOT NULL ELSE true END"

# End what has succeeded: `locked` is the fence; the row leaves `task` and enters history here, and the counts with it.
# A task with children or a successor takes several statements: it is left over, and `ending` ends it.
# Each row is looked up by the primary key: by task_running, which `state = 'running'` would allow, the planner has been
# seen to walk all that was ever claimed while an old snapshot kept vacuum from removing it (NOT IN says the same).
# Then mark what has started. Either may be empty. The first part of both cycles.
ENDING = (
    """
WITH ending AS MATERIALIZED (
    SELECT * FROM unnest(%(ids)s::uuid[], %(claim_nos)s::bigint[], %(states)s::text[], %(results)s::text[],
                         %(run_seconds)s::float8[], %(ages)s::float8[])
                  AS e(id, claim_no, state, result, run_seconds, age)
), locked AS MATERIALIZED (
    SELECT l.id
      FROM ending e
     CROSS JOIN LATERAL (
           SELECT t.id FROM taskrunner.task t
            WHERE t.id = e.id AND t.claim_no = e.claim_no
              AND t.runner_id = %(runner_id)s AND t.state NOT IN ('pending', 'blocked')
              AND NOT t.has_children AND t.successor IS NULL
              FOR UPDATE SKIP LOCKED) l
), gone AS (
    DELETE FROM taskrunner.task t WHERE t.id = ANY(ARRAY(SELECT l.id FROM locked l)) RETURNING t.*
), ended AS (
    INSERT INTO taskrunner.task_history (id, finished_at, started_at, maturity_at, created_at, claim_no, run_seconds,
           priority, tries, crashes, max_retries, tenant, queue, type, state, runner_id, unique_key,
           requeued_from, schedule_id, tick_at, payload, meta, errors, progress, result)
    SELECT g.id, taskrunner.clock(), taskrunner.clock() - make_interval(secs => e.age), g.maturity_at, g.created_at,
           g.claim_no, e.run_seconds, g.priority, g.tries, g.crashes, g.max_retries, g.tenant, g.queue, g.type,
           e.state, g.runner_id, g.unique_key, g.requeued_from, g.schedule_id, g.tick_at, g.payload, g.meta,
           g.errors, g.progress, e.result::jsonb
      FROM gone g JOIN ending e ON e.id = g.id AND e.claim_no = g.claim_no
     WHERE """
    + TOLD
    + """
    RETURNING id, tenant, queue, type, state AS outcome, coalesce(run_seconds, 0) AS run_seconds,
              greatest(extract(epoch FROM started_at - maturity_at), 0)::float8 AS wait_seconds
), """
    + COUNTED
    + """,
begun AS MATERIALIZED (
    SELECT l.id, m.age
      FROM unnest(%(started_ids)s::uuid[], %(started_claim_nos)s::bigint[], %(started_ages)s::float8[])
           AS m(id, claim_no, age)
     CROSS JOIN LATERAL (
           SELECT t.id FROM taskrunner.task t
            WHERE t.id = m.id AND t.claim_no = m.claim_no
              AND t.runner_id = %(runner_id)s AND t.state NOT IN ('pending', 'blocked')
              FOR UPDATE SKIP LOCKED) l
), marked AS (
    UPDATE taskrunner.task t SET started_at = taskrunner.clock() - make_interval(secs => b.age)
      FROM begun b WHERE t.id = b.id
)"""
)

# Where to claim is given: `fronts`, pairs of type and priority that have due tasks, the urgent first, each with its
# floor, beneath which nothing was due when last looked (see `SURVEY`). So a claim is an index descent a front, and
# starts behind the dead entries that vacuum cannot remove while somebody holds an old snapshot: index task_claim
# (queue, type, priority, maturity_at, id). A floor is at least half a second old: an enqueue takes its maturity when
# its transaction begins, and may commit after a later one was claimed.
# A runner whose lease has ended claims nothing, nor does anybody from a paused queue, nor from a fair one without
# knowing: the survey tells, and CYCLE_FAIR claims.
_FRONTS = """,
front AS MATERIALIZED (
    SELECT f.type, f.priority, least(f.floor_at, taskrunner.clock() - interval '0.5 seconds') AS floor_at, f.floor_id
      FROM unnest(%(types)s::text[], %(priorities)s::int[], %(floors_at)s::timestamptz[], %(floor_ids)s::uuid[])
           AS f(type, priority, floor_at, floor_id)
     WHERE %(room)s > 0
       AND EXISTS (SELECT FROM taskrunner.runner r WHERE r.id = %(runner_id)s AND r.lease_until > taskrunner.clock())
       AND NOT EXISTS (SELECT FROM taskrunner.queue_settings q WHERE q.queue = %(queue)s AND (q.paused OR q.fair))
)"""

# One type a priority: front by front, row by row, until there are enough, so that no more than n rows are locked.
# MATERIALIZED is needed: without it LIMIT 5 was seen to take 31 rows under stale statistics.
# With `suspects` off, tasks that saw a runner die are left out.
_PICKED = """,
picked AS MATERIALIZED (
    SELECT d.id
      FROM front f
     CROSS JOIN LATERAL (
           SELECT t.id FROM taskrunner.task t
            WHERE t.state = 'pending' AND t.queue = %(queue)s AND t.type = f.type AND t.priority = f.priority
              AND t.maturity_at <= taskrunner.clock() AND (t.maturity_at, t.id) >= (f.floor_at, f.floor_id)
              AND (%(suspects)s OR t.crashes = 0)
            ORDER BY t.maturity_at, t.id LIMIT %(room)s
              FOR UPDATE SKIP LOCKED) d
     LIMIT %(room)s
)"""

# Several types of one priority: `head` reads the first n due of all fronts in order, without locks; `share` is how
# many that makes of each; `taken` takes that many by SKIP LOCKED: at most n rows are locked, and the order over types
# is exact. Where others hold locks on rows of the head and a front has no further ones, `more` fills up from all.
_MERGED = """,
head AS MATERIALIZED (
    SELECT f.type, f.priority
      FROM front f
     CROSS JOIN LATERAL (
           SELECT t.maturity_at, t.id FROM taskrunner.task t
            WHERE t.state = 'pending' AND t.queue = %(queue)s AND t.type = f.type AND t.priority = f.priority
              AND t.maturity_at <= taskrunner.clock() AND (t.maturity_at, t.id) >= (f.floor_at, f.floor_id)
              AND (%(suspects)s OR t.crashes = 0)
            ORDER BY t.maturity_at, t.id LIMIT %(room)s) d
     ORDER BY f.priority DESC, d.maturity_at, d.id
     LIMIT %(room)s
), share AS MATERIALIZED (
    SELECT h.type, h.priority, f.floor_at, f.floor_id, count(*) AS room
      FROM head h JOIN front f ON f.type = h.type AND f.priority = h.priority
     GROUP BY h.type, h.priority, f.floor_at, f.floor_id
), taken AS MATERIALIZED (
    SELECT d.id
      FROM share f
     CROSS JOIN LATERAL (
           SELECT t.id FROM taskrunner.task t
            WHERE t.state = 'pending' AND t.queue = %(queue)s AND t.type = f.type AND t.priority = f.priority
              AND t.maturity_at <= taskrunner.clock() AND (t.maturity_at, t.id) >= (f.floor_at, f.floor_id)
              AND (%(suspects)s OR t.crashes = 0)
            ORDER BY t.maturity_at, t.id LIMIT f.room
              FOR UPDATE SKIP LOCKED) d
), more AS MATERIALIZED (
    SELECT d.id
      FROM front f
     CROSS JOIN LATERAL (
           SELECT t.id FROM taskrunner.task t
            WHERE t.state = 'pending' AND t.queue = %(queue)s AND t.type = f.type AND t.priority = f.priority
              AND t.maturity_at <= taskrunner.clock() AND (t.maturity_at, t.id) >= (f.floor_at, f.floor_id)
              AND (%(suspects)s OR t.crashes = 0) AND NOT t.id = ANY(ARRAY(SELECT p.id FROM taken p))
            ORDER BY t.maturity_at, t.id LIMIT %(room)s
              FOR UPDATE SKIP LOCKED) d
     WHERE (SELECT count(*) FROM taken) < (SELECT count(*) FROM head)
     LIMIT %(room)s - (SELECT count(*) FROM taken)
), picked AS MATERIALIZED (
    SELECT p.id FROM taken p UNION ALL SELECT m.id FROM more m
)"""

# With `start` on, the claim is the start, but not of tasks that saw a runner die: each waits for its turn, and
# MARK_STARTED is written before it runs. The rows are the claims; behind them the endings whose row was not found.
CLAIMED = """,
claimed AS (
    UPDATE taskrunner.task t
       SET state = 'running', claim_no = t.claim_no + 1, runner_id = %(runner_id)s,
           claimed_at = taskrunner.clock(),
           started_at = CASE WHEN %(start)s AND t.crashes = 0 THEN taskrunner.clock() END
     WHERE t.id = ANY(ARRAY(SELECT p.id FROM picked p))
    RETURNING t.id, t.claim_no, t.tenant, t.queue, t.type, t.priority, t.payload::text AS payload, t.maturity_at,
              t.tries, t.crashes, t.max_retries, nullif(t.errors, '[]')::text AS errors,
              nullif(t.meta, '{}')::text AS meta, t.cancel_requested_at IS NOT NULL AS cancel_requested
)
SELECT c.id, c.claim_no, c.tenant, c.queue, c.type, c.priority, c.payload, c.maturity_at, c.tries, c.crashes,
       c.max_retries, c.errors, c.meta, c.cancel_requested
  FROM claimed c
UNION ALL
SELECT e.id, e.claim_no, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
  FROM ending e WHERE NOT EXISTS (SELECT FROM gone g WHERE g.id = e.id AND g.claim_no = e.claim_no)
"""

CYCLE = ENDING + _FRONTS + _PICKED + CLAIMED
"""One round trip: end, mark, claim, where no two of the fronts have the same priority."""

CYCLE_MERGED = ENDING + _FRONTS + _MERGED + CLAIMED
"""One round trip: end, mark, claim, from fronts of which some have the same priority."""

# Where to claim, for all queues at once: per queue, type and priority the first maturity, and how many seconds off it
# is (≤ 0: due). A skip scan over task_claim: types this runner does not know and tasks that are immature cost an index
# descent or two each, never a walk; backwards, because the dead entries are those of the earliest maturities. It ends
# behind 64 priorities of a type that have due tasks; those whose tasks are all immature do not count, or any number of
# them would hide the due task below (`d`: an EXISTS there, or a LIMIT without ORDER BY, was planned as a scan of the
# whole table).
SURVEY = """
WITH RECURSIVE step(queue, type, priority, due) AS (
    SELECT q.queue, y.type, p.priority, 0
      FROM unnest(%(queues)s::text[]) AS q(queue)
     CROSS JOIN unnest(%(types)s::text[]) AS y(type)
     CROSS JOIN LATERAL (
           SELECT t.priority FROM taskrunner.task t
            WHERE t.state = 'pending' AND t.queue = q.queue AND t.type = y.type
            ORDER BY t.priority DESC, t.maturity_at DESC, t.id DESC LIMIT 1) p
     WHERE NOT EXISTS (SELECT FROM taskrunner.queue_settings s WHERE s.queue = q.queue AND s.paused)
    UNION ALL
    SELECT s.queue, s.type, p.priority, s.due + coalesce(d.one, 0)
      FROM step s
     CROSS JOIN LATERAL (
           SELECT t.priority FROM taskrunner.task t
            WHERE t.state = 'pending' AND t.queue = s.queue AND t.type = s.type AND t.priority < s.priority
            ORDER BY t.priority DESC, t.maturity_at DESC, t.id DESC LIMIT 1) p
      LEFT JOIN LATERAL (
           SELECT 1 AS one FROM taskrunner.task t
            WHERE t.state = 'pending' AND t.queue = s.queue AND t.type = s.type AND t.priority = s.priority
              AND t.maturity_at <= taskrunner.clock()
            ORDER BY t.maturity_at LIMIT 1) d ON true
     WHERE s.due < 64
)
SELECT s.queue, s.type, s.priority, n.maturity_at, n.id,
       date_part('epoch', n.maturity_at - taskrunner.clock()) AS due_in,
       EXISTS (SELECT FROM taskrunner.queue_settings q WHERE q.queue = s.queue AND q.fair) AS fair
  FROM step s
 CROSS JOIN LATERAL (
       SELECT t.maturity_at, t.id FROM taskrunner.task t
        WHERE t.state = 'pending' AND t.queue = s.queue AND t.type = s.type AND t.priority = s.priority
        ORDER BY t.maturity_at, t.id LIMIT 1) n
 ORDER BY s.queue, s.priority DESC, s.type
"""
