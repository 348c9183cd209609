"""The slow ending in SQL: of tasks with children or a successor, in one transaction of several statements.

What a child waits for is a number in its own row, `waits_for`. So a parent that ends subtracts from whatever the last
one has left, under the child's row lock: two that end at once neither miss the child nor unblock it twice. Whoever adds
a child has updated its live parents first and holds their locks until its edges are committed: a parent that ends
meanwhile waits, and the statement after its DELETE sees the edges. Children are locked in the order of their ids.
"""

from taskrunner.statements.cycle import COUNTED, OVERWRITTEN, TOLD

# How a row becomes a row of history or a dead letter, up to the values that differ. Parts of others.
_HISTORY = """
    INSERT INTO taskrunner.task_history (id, finished_at, started_at, maturity_at, created_at, claim_no, run_seconds,
           priority, tries, crashes, max_retries, tenant, queue, type, state, runner_id, unique_key,
           requeued_from, schedule_id, tick_at, payload, meta, errors, progress, result)"""

_DEAD_LETTER = """
    INSERT INTO taskrunner.dead_letter (id, finished_at, started_at, maturity_at, created_at, claim_no, run_seconds,
           priority, tries, crashes, max_retries, tenant, queue, type, runner_id, unique_key, requeued_from,
           schedule_id, tick_at, payload, meta, errors, progress)"""

_FOR_COUNTS = """coalesce(run_seconds, 0) AS run_seconds,
              greatest(extract(epoch FROM started_at - maturity_at), 0)::float8 AS wait_seconds"""

# The lock of one claim's row, waited for; the fence is checked again when it is had.
FENCE = """
SELECT t.id FROM taskrunner.task t
 WHERE t.id = %(id)s AND t.claim_no = %(claim_no)s AND t.runner_id = %(runner_id)s
   AND t.state NOT IN ('pending', 'blocked')
   FOR UPDATE
"""

# The end of claims in any of the four states: `detail` is the result, or the list of the last try's errors. Of those
# that a `crash` has ended the try is not counted, the crash is. What somebody has locked is left over.
# Rows by the primary key; `succession` is the whole row, where other work is to take its place.
END = (
    """
WITH ending AS MATERIALIZED (
    SELECT * FROM unnest(%(ids)s::uuid[], %(claim_nos)s::bigint[], %(states)s::text[], %(details)s::text[],
                         %(run_seconds)s::float8[], %(ages)s::float8[])
                  AS e(id, claim_no, state, detail, run_seconds, age)
), locked AS MATERIALIZED (
    SELECT t.id FROM taskrunner.task t JOIN ending e ON e.id = t.id
     WHERE t.claim_no = e.claim_no AND t.runner_id = %(runner_id)s AND t.state NOT IN ('pending', 'blocked')
     ORDER BY t.id FOR UPDATE OF t SKIP LOCKED
), gone AS (
    DELETE FROM taskrunner.task t WHERE t.id = ANY(ARRAY(SELECT l.id FROM locked l)) RETURNING t.*
), kept AS ("""
    + _HISTORY
    + """
    SELECT g.id, taskrunner.clock(), taskrunner.clock() - make_interval(secs => e.age), g.maturity_at, g.created_at,
           g.claim_no, e.run_seconds, g.priority, g.tries, g.crashes, g.max_retries, g.tenant, g.queue, g.type,
           e.state, g.runner_id, g.unique_key, g.requeued_from, g.schedule_id, g.tick_at, g.payload, g.meta,
           g.errors, g.progress, e.detail::jsonb
      FROM gone g JOIN ending e ON e.id = g.id AND e.claim_no = g.claim_no
     WHERE e.state <> 'dead'
    RETURNING id, tenant, queue, type, state AS outcome, """
    + _FOR_COUNTS
    + """
), buried AS ("""
    + _DEAD_LETTER
    + """
    SELECT g.id, taskrunner.clock(), taskrunner.clock() - make_interval(secs => e.age), g.maturity_at, g.created_at,
           g.claim_no, e.run_seconds, g.priority, g.tries + (NOT %(crash)s)::int, g.crashes + %(crash)s::int,
           g.max_retries, g.tenant, g.queue, g.type, g.runner_id, g.unique_key, g.requeued_from, g.schedule_id,
           g.tick_at, g.payload, g.meta,
           g.errors || (SELECT jsonb_agg(jsonb_build_object('at', taskrunner.clock(), 'runner', g.runner_id,
                                                            'try', g.tries + 1) || x ORDER BY i)
                          FROM jsonb_array_elements(e.detail::jsonb) WITH ORDINALITY AS a(x, i)),
           g.progress
      FROM gone g JOIN ending e ON e.id = g.id AND e.claim_no = g.claim_no
     WHERE e.state = 'dead'"""
    + OVERWRITTEN
    + """
    RETURNING id, tenant, queue, type, 'dead' AS outcome, """
    + _FOR_COUNTS
    + """
), ended AS (
    SELECT k.* FROM kept k UNION ALL SELECT b.* FROM buried b
), """
    + COUNTED
    + """
SELECT g.id, g.type, e.state, g.has_children,
       CASE WHEN g.successor IS NOT NULL THEN to_jsonb(g)::text END AS succession
  FROM gone g JOIN ending e ON e.id = g.id AND e.claim_no = g.claim_no
 WHERE """
    + TOLD
)

# The blocked children of what has succeeded, and those that run whatever their parent came to: each waits for fewer,
# and is pending when it waits for none, due no earlier than now. Edges by dependency_pkey, rows by the primary key.
# The subtraction is made on the row's latest version: whoever held its lock before has committed.
# With a %(patience)s (milliseconds as text) no lock is waited for any longer, until the transaction's end.
# Due from this moment on, not from the beginning of a transaction that may have been a task's own for minutes: runners
# do not look beneath their floors.
UNBLOCK = """
WITH moment AS MATERIALIZED (
    SELECT taskrunner.clock() + (clock_timestamp() - now()) AS at
), edge AS MATERIALIZED (
    SELECT d.child_id, count(*)::int AS count
      FROM (SELECT set_config('lock_timeout', coalesce(%(patience)s, current_setting('lock_timeout')), true) AS set) p
      JOIN taskrunner.dependency d ON p.set IS NOT NULL
     WHERE d.parent_id = ANY(%(done)s::uuid[])
        OR d.parent_id = ANY(%(failed)s::uuid[]) AND d.on_failure = 'run'
     GROUP BY d.child_id
), locked AS MATERIALIZED (
    SELECT t.id, e.count FROM taskrunner.task t JOIN edge e ON e.child_id = t.id
     WHERE t.state = 'blocked'
     ORDER BY t.id FOR UPDATE OF t
), fewer AS (
    UPDATE taskrunner.task t
       SET waits_for = nullif(greatest(t.waits_for - l.count, 0), 0),
           state = CASE WHEN t.waits_for > l.count THEN 'blocked' ELSE 'pending' END,
           maturity_at = CASE WHEN t.waits_for > l.count THEN t.maturity_at
                              ELSE greatest(t.maturity_at, m.at) END
      FROM locked l CROSS JOIN moment m
     WHERE t.id = l.id
    RETURNING t.id, t.queue, t.priority, t.maturity_at, t.type, t.state
)
SELECT f.id, f.queue, f.priority, date_part('epoch', f.maturity_at - m.at) AS due_in, f.type
  FROM fewer f CROSS JOIN moment m
 WHERE f.state = 'pending'
"""

# The blocked children that a parent's failure ends: as its parent did, dead or cancelled, with an error that names it.
# Nothing can bring a cancelled parent back, so that whoever waits for it has failed too.
FAIL = (
    """
WITH edge AS MATERIALIZED (
    SELECT DISTINCT ON (d.child_id) d.child_id, p.state,
           'its parent ' || p.type || ' ' || p.id
               || CASE p.state WHEN 'dead' THEN ' is dead' ELSE ' was cancelled' END AS message
      FROM (SELECT set_config('lock_timeout', coalesce(%(patience)s, current_setting('lock_timeout')), true) AS set) s
      JOIN unnest(%(failed)s::uuid[], %(types)s::text[], %(states)s::text[]) AS p(id, type, state) ON s.set IS NOT NULL
      JOIN taskrunner.dependency d ON d.parent_id = p.id
     WHERE d.on_failure = 'fail' OR d.on_failure = 'wait' AND p.state = 'cancelled'
     ORDER BY d.child_id, p.state DESC, p.id
), locked AS MATERIALIZED (
    SELECT t.id FROM taskrunner.task t JOIN edge e ON e.child_id = t.id
     WHERE t.state = 'blocked'
     ORDER BY t.id FOR UPDATE OF t
), gone AS (
    DELETE FROM taskrunner.task t WHERE t.id = ANY(ARRAY(SELECT l.id FROM locked l)) RETURNING t.*
), kept AS ("""
    + _HISTORY
    + """
    SELECT g.id, taskrunner.clock(), NULL, g.maturity_at, g.created_at, g.claim_no, NULL, g.priority, g.tries,
           g.crashes, g.max_retries, g.tenant, g.queue, g.type, 'cancelled', NULL, g.unique_key, g.requeued_from,
           g.schedule_id, g.tick_at, g.payload, g.meta,
           g.errors || jsonb_build_object('at', taskrunner.clock(), 'runner', NULL, 'traceback', NULL,
                                          'message', e.message),
           g.progress, NULL
      FROM gone g JOIN edge e ON e.child_id = g.id
     WHERE e.state = 'cancelled'
    RETURNING id, tenant, queue, type, state AS outcome, """
    + _FOR_COUNTS
    + """
), buried AS ("""
    + _DEAD_LETTER
    + """
    SELECT g.id, taskrunner.clock(), NULL, g.maturity_at, g.created_at, g.claim_no, NULL, g.priority, g.tries,
           g.crashes, g.max_retries, g.tenant, g.queue, g.type, NULL, g.unique_key, g.requeued_from,
           g.schedule_id, g.tick_at, g.payload, g.meta,
           g.errors || jsonb_build_object('at', taskrunner.clock(), 'runner', NULL, 'traceback', NULL,
                                          'message', e.message),
           g.progress
      FROM gone g JOIN edge e ON e.child_id = g.id
     WHERE e.state = 'dead'"""
    + OVERWRITTEN
    + """
    RETURNING id, tenant, queue, type, 'dead' AS outcome, """
    + _FOR_COUNTS
    + """
), ended AS (
    SELECT k.* FROM kept k UNION ALL SELECT b.* FROM buried b
), """
    + COUNTED
    + """
SELECT g.id, g.type, e.state, g.has_children FROM gone g JOIN edge e ON e.child_id = g.id
 WHERE """
    + TOLD
)

# Of parents, those none of whose blocked children is locked by somebody else; their children are locked.
FREE = """
WITH child AS MATERIALIZED (
    SELECT t.id FROM taskrunner.task t
     WHERE t.id IN (SELECT d.child_id FROM taskrunner.dependency d WHERE d.parent_id = ANY(%(ids)s::uuid[]))
       AND t.state = 'blocked'
     ORDER BY t.id FOR UPDATE OF t SKIP LOCKED
)
SELECT p.id FROM unnest(%(ids)s::uuid[]) AS p(id)
 WHERE NOT EXISTS (SELECT FROM taskrunner.dependency d JOIN taskrunner.task t ON t.id = d.child_id
                    WHERE d.parent_id = p.id AND t.state = 'blocked'
                      AND NOT t.id = ANY(ARRAY(SELECT c.id FROM child c)))
"""
