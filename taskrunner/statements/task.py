"""The life of a task in SQL, in the order of that life: sent back, buried, released; `cycle` claims and ends it.

Every write after a claim carries the fence: `id`, `claim_no` and `runner_id` match and the state is `running`.
Rows that somebody else has locked are skipped (`SKIP LOCKED`), so that one foreign lock never stalls a batch; the
store reports them as left over, and they are tried again. `state NOT IN (…)` is `= 'running'` in words that keep the
planner from the index task_running: see `cycle`.
"""

from taskrunner.statements.cycle import COUNTED, OVERWRITTEN, TOLD
from taskrunner.statements.successor import FORGOTTEN, TAKES_OVER

# A failed try: kept in errors (at most 100, the oldest go), back to pending with a new maturity.
RETRY = (
    """
WITH ending AS MATERIALIZED (
    SELECT * FROM unnest(%(ids)s::uuid[], %(claim_nos)s::bigint[], %(delays)s::float8[], %(errors)s::text[],
                         %(run_seconds)s::float8[], %(ages)s::float8[])
                  AS e(id, claim_no, delay, error, run_seconds, age)
), locked AS MATERIALIZED (
    SELECT t.id, e.delay, e.error::jsonb AS error, e.run_seconds, t.successor IS NOT NULL AS succeeded,
           greatest(extract(epoch FROM taskrunner.clock() - t.maturity_at) - e.age, 0)::float8 AS wait_seconds
      FROM taskrunner.task t JOIN ending e ON e.id = t.id
     WHERE t.claim_no = e.claim_no AND t.runner_id = %(runner_id)s AND t.state NOT IN ('pending', 'blocked')
     ORDER BY t.id FOR UPDATE OF t SKIP LOCKED
), """
    + FORGOTTEN
    + """, retried AS (
UPDATE taskrunner.task t
   SET state = 'pending', runner_id = NULL, claimed_at = NULL, started_at = NULL, deadline_at = NULL, progress = NULL,
       tries = CASE WHEN t.successor IS NULL THEN t.tries + 1 ELSE 0 END,
       maturity_at = CASE WHEN t.successor IS NULL THEN taskrunner.clock() + make_interval(secs => l.delay)
                          ELSE (t.successor ->> 'maturity_at')::timestamptz END,
       """
    + TAKES_OVER
    + """,
       errors = (CASE WHEN jsonb_array_length(t.errors) >= 100 THEN t.errors - 0 ELSE t.errors END)
                || (jsonb_build_object('at', taskrunner.clock(), 'runner', t.runner_id, 'try', t.tries + 1) || l.error)
  FROM locked l
 WHERE t.id = l.id
RETURNING t.id, t.tenant, t.queue, t.type, t.priority, l.run_seconds, l.wait_seconds,
          extract(epoch FROM t.maturity_at - taskrunner.clock())::float8 AS due_in
), ended AS (
    SELECT r.tenant, r.queue, r.type, 'retried' AS outcome, r.run_seconds, r.wait_seconds FROM retried r
), """
    + COUNTED
    + """
SELECT r.id, r.queue, r.priority, r.due_in, r.type FROM retried r
"""
)

# A new maturity by the task's own request: no try is counted, nothing is an error.
SNOOZE = (
    """
WITH ending AS MATERIALIZED (
    SELECT * FROM unnest(%(ids)s::uuid[], %(claim_nos)s::bigint[], %(delays)s::float8[]) AS e(id, claim_no, delay)
), locked AS MATERIALIZED (
    SELECT t.id, e.delay, t.successor IS NOT NULL AS succeeded FROM taskrunner.task t JOIN ending e ON e.id = t.id
     WHERE t.claim_no = e.claim_no AND t.runner_id = %(runner_id)s AND t.state NOT IN ('pending', 'blocked')
     ORDER BY t.id FOR UPDATE OF t SKIP LOCKED
), """
    + FORGOTTEN
    + """
UPDATE taskrunner.task t
   SET state = 'pending', runner_id = NULL, claimed_at = NULL, started_at = NULL, deadline_at = NULL,
       tries = CASE WHEN t.successor IS NULL THEN t.tries ELSE 0 END,
       progress = CASE WHEN t.successor IS NULL THEN t.progress END,
       maturity_at = CASE WHEN t.successor IS NULL THEN taskrunner.clock() + make_interval(secs => l.delay)
                          ELSE (t.successor ->> 'maturity_at')::timestamptz END,
       """
    + TAKES_OVER
    + """
  FROM locked l
 WHERE t.id = l.id
RETURNING t.id, t.queue, t.priority, extract(epoch FROM t.maturity_at - taskrunner.clock())::float8 AS due_in, t.type
"""
)

# Out of retries: the whole row, with this last error, becomes a dead letter. What has children is left to `ending`.
BURY = (
    """
WITH ending AS MATERIALIZED (
    SELECT * FROM unnest(%(ids)s::uuid[], %(claim_nos)s::bigint[], %(errors)s::text[], %(run_seconds)s::float8[],
                         %(ages)s::float8[])
                  AS e(id, claim_no, errors, run_seconds, age)
), locked AS MATERIALIZED (
    SELECT t.id FROM taskrunner.task t JOIN ending e ON e.id = t.id
     WHERE t.claim_no = e.claim_no AND t.runner_id = %(runner_id)s AND t.state NOT IN ('pending', 'blocked')
       AND NOT t.has_children AND t.successor IS NULL
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
 WHERE """
    + TOLD
    + OVERWRITTEN
    + """
RETURNING id, tenant, queue, type, 'dead' AS outcome, coalesce(run_seconds, 0) AS run_seconds,
          greatest(extract(epoch FROM started_at - maturity_at), 0)::float8 AS wait_seconds
), """
    + COUNTED
    + """
SELECT e.id FROM ended e
"""
)

# Hand claims back unchanged: at drain, and for rows of a claim whose reply was lost.
RELEASE = (
    """
WITH locked AS MATERIALIZED (
    SELECT t.id, t.successor IS NOT NULL AS succeeded FROM taskrunner.task t
      JOIN unnest(%(ids)s::uuid[], %(claim_nos)s::bigint[]) AS e(id, claim_no) ON e.id = t.id
     WHERE t.claim_no = e.claim_no AND t.runner_id = %(runner_id)s AND t.state NOT IN ('pending', 'blocked')
     ORDER BY t.id FOR UPDATE OF t SKIP LOCKED
), """
    + FORGOTTEN
    + """
UPDATE taskrunner.task t
   SET state = 'pending', runner_id = NULL, claimed_at = NULL, started_at = NULL, deadline_at = NULL,
       tries = CASE WHEN t.successor IS NULL THEN t.tries ELSE 0 END,
       progress = CASE WHEN t.successor IS NULL THEN t.progress END,
       maturity_at = CASE WHEN t.successor IS NULL THEN t.maturity_at
                          ELSE (t.successor ->> 'maturity_at')::timestamptz END,
       """
    + TAKES_OVER
    + """
  FROM locked l
 WHERE t.id = l.id
RETURNING t.id, t.queue, t.priority, date_part('epoch', t.maturity_at - taskrunner.clock()) AS due_in, t.type
"""
)

# Rows that carry this runner's id though it neither holds them nor has them in flight: a reply was lost.
UNKNOWN = """
SELECT t.id, t.claim_no FROM taskrunner.task t
 WHERE t.runner_id = %(runner_id)s AND t.state = 'running' AND NOT t.id = ANY(%(held)s::uuid[])
"""

# Of claims whose ending did not find its row: who still holds the fence (somebody's lock was in the way, or it is
# `special`: it has children or a successor, and ends by `ending.END`), and whose end is in history or dead letters
# already (the first reply was lost). The rest lost their lease.
FATE = """
SELECT e.id, EXISTS (SELECT FROM taskrunner.task t WHERE t.id = e.id AND t.claim_no = e.claim_no
                        AND t.runner_id = %(runner_id)s AND t.state = 'running') AS held,
       EXISTS (SELECT FROM taskrunner.task t WHERE t.id = e.id AND t.claim_no = e.claim_no
                  AND (t.has_children OR t.successor IS NOT NULL)) AS special,
       EXISTS (SELECT FROM taskrunner.task_history h WHERE h.id = e.id AND h.claim_no = e.claim_no)
    OR EXISTS (SELECT FROM taskrunner.dead_letter d WHERE d.id = e.id AND d.claim_no = e.claim_no) AS ended
  FROM unnest(%(ids)s::uuid[], %(claim_nos)s::bigint[]) AS e(id, claim_no)
"""

# The mark of a suspect's start, written before it runs; not through somebody's lock, which others would wait behind.
MARK_STARTED = """
WITH locked AS MATERIALIZED (
    SELECT t.id FROM taskrunner.task t
     WHERE t.id = %(id)s AND t.claim_no = %(claim_no)s AND t.runner_id = %(runner_id)s
       AND t.state NOT IN ('pending', 'blocked')
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
     WHERE t.claim_no = n.claim_no AND t.runner_id = %(runner_id)s AND t.state NOT IN ('pending', 'blocked')
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
