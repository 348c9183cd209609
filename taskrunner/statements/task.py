"""The life of a task in SQL, in the order of that life: claimed, ended, sent back, buried; `enqueue` has its birth.

Every write after a claim carries the fence: `id`, `claim_no` and `runner_id` match and the state is `running`.
Rows that somebody else has locked are skipped (`SKIP LOCKED`), so that one foreign lock never stalls a batch; the
store reports them as left over, and they are tried again.
"""

# Counts what `ended` returns, in the same statement, so that counts and history always agree. A part of others.
# The thirteen buckets are those between %(bounds)s, in seconds (store.task.BOUNDS).
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

# One round trip: end what has succeeded, mark what has started, claim what is due. Either half may be empty.
#
# Ending: `locked` is the fence; the row leaves `task` and enters history in this statement, and the counts with it.
# Claiming: `step` is a skip scan over task_claim (queue, type, priority): types this runner does not know and
# priorities whose tasks are all immature cost an index descent or two each, never a walk. It ends behind 64
# priorities of a type that have due tasks; those whose tasks are all immature do not count, or any number of them
# would hide the due task below (`d`: an EXISTS there, or a LIMIT without ORDER BY, was planned as a scan of the whole
# table). `head` reads the first n due of all of these in order, without locks; `share` is how many that makes of each
# pair; `picked` takes that many by SKIP LOCKED: at most n rows are locked, and the order over types and priorities is
# exact. Where others hold locks on rows of the head and a pair has no further ones, `more` fills up from all pairs.
# MATERIALIZED is needed: without it LIMIT 5 was seen to take 31 rows under stale statistics.
# A runner whose lease has ended claims nothing; with `suspects` off, tasks that saw a runner die are left out, and
# with `start` on they are not marked: each waits for its turn, and MARK_STARTED is written before it runs.
CYCLE = (
    """
WITH RECURSIVE ending AS MATERIALIZED (
    SELECT * FROM unnest(%(ids)s::uuid[], %(claim_nos)s::bigint[], %(states)s::text[], %(results)s::text[],
                         %(run_seconds)s::float8[], %(ages)s::float8[])
                  AS e(id, claim_no, state, result, run_seconds, age)
), locked AS MATERIALIZED (
    SELECT t.id FROM taskrunner.task t
     WHERE t.id = ANY(%(ids)s::uuid[]) AND t.runner_id = %(runner_id)s AND t.state = 'running'
       AND EXISTS (SELECT FROM ending e WHERE e.id = t.id AND e.claim_no = t.claim_no)
     ORDER BY t.id FOR UPDATE OF t SKIP LOCKED
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
    RETURNING id, tenant, queue, type, state AS outcome, coalesce(run_seconds, 0) AS run_seconds,
              greatest(extract(epoch FROM started_at - maturity_at), 0)::float8 AS wait_seconds
), """
    + COUNTED
    + """,
begun AS MATERIALIZED (
    SELECT t.id, m.age
      FROM unnest(%(started_ids)s::uuid[], %(started_claim_nos)s::bigint[], %(started_ages)s::float8[])
           AS m(id, claim_no, age)
      JOIN taskrunner.task t ON t.id = m.id
     WHERE t.claim_no = m.claim_no AND t.runner_id = %(runner_id)s AND t.state = 'running'
     ORDER BY t.id FOR UPDATE OF t SKIP LOCKED
), marked AS (
    UPDATE taskrunner.task t SET started_at = taskrunner.clock() - make_interval(secs => b.age)
      FROM begun b WHERE t.id = b.id
), step(type, priority, due) AS (
    SELECT y.type, p.priority, 0
      FROM unnest(%(types)s::text[]) AS y(type)
     CROSS JOIN LATERAL (
           SELECT t.priority FROM taskrunner.task t
            WHERE t.state = 'pending' AND t.queue = %(queue)s AND t.type = y.type
            ORDER BY t.priority DESC LIMIT 1) p
     WHERE %(room)s > 0
       AND EXISTS (SELECT FROM taskrunner.runner r WHERE r.id = %(runner_id)s AND r.lease_until > taskrunner.clock())
       AND NOT EXISTS (SELECT FROM taskrunner.queue_settings q WHERE q.queue = %(queue)s AND q.paused)
    UNION ALL
    SELECT s.type, p.priority, s.due + coalesce(d.one, 0)
      FROM step s
     CROSS JOIN LATERAL (
           SELECT t.priority FROM taskrunner.task t
            WHERE t.state = 'pending' AND t.queue = %(queue)s AND t.type = s.type AND t.priority < s.priority
            ORDER BY t.priority DESC LIMIT 1) p
      LEFT JOIN LATERAL (
           SELECT 1 AS one FROM taskrunner.task t
            WHERE t.state = 'pending' AND t.queue = %(queue)s AND t.type = s.type AND t.priority = s.priority
              AND t.maturity_at <= taskrunner.clock()
            ORDER BY t.maturity_at LIMIT 1) d ON true
     WHERE s.due < 64
), head AS MATERIALIZED (
    SELECT s.type, s.priority
      FROM step s
     CROSS JOIN LATERAL (
           SELECT t.maturity_at, t.id FROM taskrunner.task t
            WHERE t.state = 'pending' AND t.queue = %(queue)s AND t.type = s.type AND t.priority = s.priority
              AND t.maturity_at <= taskrunner.clock() AND (%(suspects)s OR t.crashes = 0)
            ORDER BY t.maturity_at, t.id LIMIT %(room)s) d
     ORDER BY s.priority DESC, d.maturity_at, d.id
     LIMIT %(room)s
), share AS MATERIALIZED (
    SELECT h.type, h.priority, count(*) AS room FROM head h GROUP BY h.type, h.priority
), picked AS MATERIALIZED (
    SELECT d.id
      FROM share h
     CROSS JOIN LATERAL (
           SELECT t.id FROM taskrunner.task t
            WHERE t.state = 'pending' AND t.queue = %(queue)s AND t.type = h.type AND t.priority = h.priority
              AND t.maturity_at <= taskrunner.clock() AND (%(suspects)s OR t.crashes = 0)
            ORDER BY t.maturity_at, t.id LIMIT h.room
              FOR UPDATE SKIP LOCKED) d
), more AS MATERIALIZED (
    SELECT d.id
      FROM (SELECT s.type, s.priority FROM step s ORDER BY s.priority DESC) s
     CROSS JOIN LATERAL (
           SELECT t.id FROM taskrunner.task t
            WHERE t.state = 'pending' AND t.queue = %(queue)s AND t.type = s.type AND t.priority = s.priority
              AND t.maturity_at <= taskrunner.clock() AND (%(suspects)s OR t.crashes = 0)
              AND NOT t.id = ANY(ARRAY(SELECT p.id FROM picked p))
            ORDER BY t.maturity_at, t.id LIMIT %(room)s
              FOR UPDATE SKIP LOCKED) d
     WHERE (SELECT count(*) FROM picked) < (SELECT count(*) FROM head)
     LIMIT %(room)s - (SELECT count(*) FROM picked)
), claimed AS (
    UPDATE taskrunner.task t
       SET state = 'running', claim_no = t.claim_no + 1, runner_id = %(runner_id)s,
           claimed_at = taskrunner.clock(),
           started_at = CASE WHEN %(start)s AND t.crashes = 0 THEN taskrunner.clock() END
     WHERE t.id = ANY(ARRAY(SELECT p.id FROM picked p UNION ALL SELECT m.id FROM more m))
    RETURNING t.id, t.claim_no, t.tenant, t.queue, t.type, t.priority, t.payload::text AS payload, t.maturity_at,
              t.tries, t.crashes, t.max_retries, t.errors, t.meta, t.cancel_requested_at IS NOT NULL AS cancel_requested
)
SELECT c.id, c.claim_no, c.tenant, c.queue, c.type, c.priority, c.payload, c.maturity_at, c.tries, c.crashes,
       c.max_retries, c.errors, c.meta, c.cancel_requested
  FROM claimed c
UNION ALL
SELECT e.id, e.claim_no, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
  FROM ending e WHERE NOT EXISTS (SELECT FROM gone g WHERE g.id = e.id AND g.claim_no = e.claim_no)
"""
)

# What is next, for one idle poll over all queues: per queue the seconds until its first maturity (≤ 0: due now).
SURVEY = """
WITH RECURSIVE step(queue, type, priority) AS (
    SELECT q.queue, y.type, p.priority
      FROM unnest(%(queues)s::text[]) AS q(queue)
     CROSS JOIN unnest(%(types)s::text[]) AS y(type)
     CROSS JOIN LATERAL (
           SELECT t.priority FROM taskrunner.task t
            WHERE t.state = 'pending' AND t.queue = q.queue AND t.type = y.type
            ORDER BY t.priority DESC LIMIT 1) p
     WHERE NOT EXISTS (SELECT FROM taskrunner.queue_settings s WHERE s.queue = q.queue AND s.paused)
    UNION ALL
    SELECT s.queue, s.type, p.priority
      FROM step s
     CROSS JOIN LATERAL (
           SELECT t.priority FROM taskrunner.task t
            WHERE t.state = 'pending' AND t.queue = s.queue AND t.type = s.type AND t.priority < s.priority
            ORDER BY t.priority DESC LIMIT 1) p
)
SELECT s.queue, extract(epoch FROM min(n.maturity_at) - taskrunner.clock())::float8
  FROM step s
 CROSS JOIN LATERAL (
       SELECT t.maturity_at FROM taskrunner.task t
        WHERE t.state = 'pending' AND t.queue = s.queue AND t.type = s.type AND t.priority = s.priority
        ORDER BY t.maturity_at LIMIT 1) n
 GROUP BY s.queue
"""

# A failed try: kept in errors (at most 100, the oldest go), back to pending with a new maturity.
RETRY = (
    """
WITH ending AS MATERIALIZED (
    SELECT * FROM unnest(%(ids)s::uuid[], %(claim_nos)s::bigint[], %(delays)s::float8[], %(errors)s::text[],
                         %(run_seconds)s::float8[], %(ages)s::float8[])
                  AS e(id, claim_no, delay, error, run_seconds, age)
), locked AS MATERIALIZED (
    SELECT t.id, e.delay, e.error::jsonb AS error, e.run_seconds,
           greatest(extract(epoch FROM taskrunner.clock() - t.maturity_at) - e.age, 0)::float8 AS wait_seconds
      FROM taskrunner.task t JOIN ending e ON e.id = t.id
     WHERE t.claim_no = e.claim_no AND t.runner_id = %(runner_id)s AND t.state = 'running'
     ORDER BY t.id FOR UPDATE OF t SKIP LOCKED
), retried AS (
UPDATE taskrunner.task t
   SET state = 'pending', tries = t.tries + 1, runner_id = NULL, claimed_at = NULL, started_at = NULL,
       deadline_at = NULL, progress = NULL, maturity_at = taskrunner.clock() + make_interval(secs => l.delay),
       errors = (CASE WHEN jsonb_array_length(t.errors) >= 100 THEN t.errors - 0 ELSE t.errors END)
                || (jsonb_build_object('at', taskrunner.clock(), 'runner', t.runner_id, 'try', t.tries + 1) || l.error)
  FROM locked l
 WHERE t.id = l.id
RETURNING t.id, t.tenant, t.queue, t.type, t.priority, l.delay, l.run_seconds, l.wait_seconds
), ended AS (
    SELECT r.tenant, r.queue, r.type, 'retried' AS outcome, r.run_seconds, r.wait_seconds FROM retried r
), """
    + COUNTED
    + """
SELECT r.id, r.queue, r.priority, r.delay AS due_in FROM retried r
"""
)

# A new maturity by the task's own request: no try is counted, nothing is an error.
SNOOZE = """
WITH ending AS MATERIALIZED (
    SELECT * FROM unnest(%(ids)s::uuid[], %(claim_nos)s::bigint[], %(delays)s::float8[]) AS e(id, claim_no, delay)
), locked AS MATERIALIZED (
    SELECT t.id, e.delay FROM taskrunner.task t JOIN ending e ON e.id = t.id
     WHERE t.claim_no = e.claim_no AND t.runner_id = %(runner_id)s AND t.state = 'running'
     ORDER BY t.id FOR UPDATE OF t SKIP LOCKED
)
UPDATE taskrunner.task t
   SET state = 'pending', runner_id = NULL, claimed_at = NULL, started_at = NULL, deadline_at = NULL,
       maturity_at = taskrunner.clock() + make_interval(secs => l.delay)
  FROM locked l
 WHERE t.id = l.id
RETURNING t.id, t.queue, t.priority, l.delay AS due_in
"""

# Out of retries: the whole row, with this last error, becomes a dead letter.
BURY = (
    """
WITH ending AS MATERIALIZED (
    SELECT * FROM unnest(%(ids)s::uuid[], %(claim_nos)s::bigint[], %(errors)s::text[], %(run_seconds)s::float8[],
                         %(ages)s::float8[])
                  AS e(id, claim_no, errors, run_seconds, age)
), locked AS MATERIALIZED (
    SELECT t.id FROM taskrunner.task t JOIN ending e ON e.id = t.id
     WHERE t.claim_no = e.claim_no AND t.runner_id = %(runner_id)s AND t.state = 'running'
     ORDER BY t.id FOR UPDATE OF t SKIP LOCKED
), gone AS (
    DELETE FROM taskrunner.task t WHERE t.id = ANY(ARRAY(SELECT l.id FROM locked l)) RETURNING t.*
), ended AS (
INSERT INTO taskrunner.dead_letter (id, finished_at, started_at, maturity_at, created_at, claim_no, run_seconds,
       priority, tries, crashes, max_retries, tenant, queue, type, runner_id, unique_key, requeued_from,
       schedule_id, tick_at, payload, meta, errors, progress)
SELECT g.id, taskrunner.clock(), taskrunner.clock() - make_interval(secs => e.age), g.maturity_at, g.created_at,
       g.claim_no, e.run_seconds, g.priority, g.tries + 1, g.crashes, g.max_retries, g.tenant, g.queue, g.type,
       g.runner_id, g.unique_key, g.requeued_from, g.schedule_id, g.tick_at, g.payload, g.meta,
       g.errors || (SELECT jsonb_agg(jsonb_build_object('at', taskrunner.clock(), 'runner', g.runner_id,
                                                        'try', g.tries + 1) || x ORDER BY i)
                      FROM jsonb_array_elements(e.errors::jsonb) WITH ORDINALITY AS a(x, i)),
       g.progress
  FROM gone g JOIN ending e ON e.id = g.id AND e.claim_no = g.claim_no
RETURNING id, tenant, queue, type, 'dead' AS outcome, coalesce(run_seconds, 0) AS run_seconds,
          greatest(extract(epoch FROM started_at - maturity_at), 0)::float8 AS wait_seconds
), """
    + COUNTED
    + """
SELECT e.id FROM ended e
"""
)

# Hand claims back unchanged: at drain, and for rows of a claim whose reply was lost.
RELEASE = """
WITH locked AS MATERIALIZED (
    SELECT t.id FROM taskrunner.task t
      JOIN unnest(%(ids)s::uuid[], %(claim_nos)s::bigint[]) AS e(id, claim_no) ON e.id = t.id
     WHERE t.claim_no = e.claim_no AND t.runner_id = %(runner_id)s AND t.state = 'running'
     ORDER BY t.id FOR UPDATE OF t SKIP LOCKED
)
UPDATE taskrunner.task t
   SET state = 'pending', runner_id = NULL, claimed_at = NULL, started_at = NULL, deadline_at = NULL
  FROM locked l
 WHERE t.id = l.id
RETURNING t.id, t.queue, t.priority, extract(epoch FROM t.maturity_at - taskrunner.clock())::float8 AS due_in
"""

# Rows that carry this runner's id though it neither holds them nor has them in flight: a reply was lost.
UNKNOWN = """
SELECT t.id, t.claim_no FROM taskrunner.task t
 WHERE t.runner_id = %(runner_id)s AND t.state = 'running' AND NOT t.id = ANY(%(held)s::uuid[])
"""

# Of claims whose ending did not find its row: who still holds the fence (somebody's lock was in the way),
# and whose end is in history or dead letters already (the first reply was lost). The rest lost their lease.
FATE = """
SELECT e.id, EXISTS (SELECT FROM taskrunner.task t WHERE t.id = e.id AND t.claim_no = e.claim_no
                        AND t.runner_id = %(runner_id)s AND t.state = 'running') AS held,
       EXISTS (SELECT FROM taskrunner.task_history h WHERE h.id = e.id AND h.claim_no = e.claim_no)
    OR EXISTS (SELECT FROM taskrunner.dead_letter d WHERE d.id = e.id AND d.claim_no = e.claim_no) AS ended
  FROM unnest(%(ids)s::uuid[], %(claim_nos)s::bigint[]) AS e(id, claim_no)
"""

# The mark of a suspect's start, written before it runs; not through somebody's lock, which others would wait behind.
MARK_STARTED = """
WITH locked AS MATERIALIZED (
    SELECT t.id FROM taskrunner.task t
     WHERE t.id = %(id)s AND t.claim_no = %(claim_no)s AND t.runner_id = %(runner_id)s AND t.state = 'running'
       FOR UPDATE SKIP LOCKED
)
UPDATE taskrunner.task t SET started_at = taskrunner.clock() FROM locked l WHERE t.id = l.id
RETURNING t.id
"""

PROGRESS = """
WITH locked AS MATERIALIZED (
    SELECT t.id, n.progress FROM taskrunner.task t
      JOIN unnest(%(ids)s::uuid[], %(claim_nos)s::bigint[], %(progresses)s::text[]) AS n(id, claim_no, progress)
           ON n.id = t.id
     WHERE t.claim_no = n.claim_no AND t.runner_id = %(runner_id)s AND t.state = 'running'
     ORDER BY t.id FOR UPDATE OF t SKIP LOCKED
)
UPDATE taskrunner.task t SET progress = l.progress::jsonb FROM locked l WHERE t.id = l.id
RETURNING t.id
"""

# Running tasks of this runner that somebody asked to stop.
CANCEL_REQUESTS = """
SELECT t.id FROM taskrunner.task t
 WHERE t.runner_id = %(runner_id)s AND t.state = 'running' AND t.cancel_requested_at IS NOT NULL
"""
