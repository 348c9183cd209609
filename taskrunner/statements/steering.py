"""What people do to tasks, in SQL: each one guarded write that RETURNs whom it changed, or nobody."""

from taskrunner.statements.cycle import TOLD

# Pending or blocked → history as cancelled; the row leaves and enters in one statement.
CANCEL = (
    """
WITH gone AS (
    DELETE FROM taskrunner.task t WHERE t.id = %(id)s AND t.state IN ('pending', 'blocked') RETURNING t.*
), ended AS (
INSERT INTO taskrunner.task_history (id, finished_at, started_at, maturity_at, created_at, claim_no, run_seconds,
       priority, tries, crashes, max_retries, tenant, queue, type, state, runner_id, unique_key,
       requeued_from, schedule_id, tick_at, payload, meta, errors, progress, result)
SELECT g.id, taskrunner.clock(), NULL, g.maturity_at, g.created_at, g.claim_no, NULL, g.priority, g.tries,
       g.crashes, g.max_retries, g.tenant, g.queue, g.type, 'cancelled', NULL, g.unique_key, g.requeued_from,
       g.schedule_id, g.tick_at, g.payload, g.meta, g.errors, g.progress, NULL
  FROM gone g
 WHERE """
    + TOLD
    + """
)
SELECT g.id, g.tenant, g.queue, g.type, g.has_children FROM gone g
"""
)

# A cancel by hand belongs to no runner: the nil id keeps the counts in step with history.
COUNT_CANCELLED = """
INSERT INTO taskrunner.task_stats AS s (minute, runner_id, tenant, queue, type, outcome, count,
       run_seconds, wait_seconds, run_histogram, wait_histogram)
VALUES (date_trunc('minute', taskrunner.clock()), '00000000-0000-0000-0000-000000000000', %(tenant)s, %(queue)s,
        %(type)s, 'cancelled', 1, 0, 0, array_fill(0, ARRAY[13]), array_fill(0, ARRAY[13]))
ON CONFLICT (minute, runner_id, tenant, queue, type, outcome) DO UPDATE SET count = s.count + EXCLUDED.count
"""

# Running → its runner is asked to stop it.
REQUEST_CANCEL = """
UPDATE taskrunner.task t SET cancel_requested_at = coalesce(t.cancel_requested_at, taskrunner.clock())
 WHERE t.id = %(id)s AND t.state = 'running'
RETURNING t.id, t.runner_id
"""

NOTIFY_CANCEL = "SELECT pg_notify('taskrunner_cancel', %(message)s)"

# Who gives a task a new maturity wants it to run: a cancel that came too late for an earlier run is taken back.
RESCHEDULE = """
UPDATE taskrunner.task t
   SET maturity_at = coalesce(%(at)s, taskrunner.clock() + %(delay)s::interval), cancel_requested_at = NULL
 WHERE t.id = %(id)s AND t.state = 'pending'
RETURNING t.id, t.queue, t.priority, date_part('epoch', t.maturity_at - taskrunner.clock()) AS due_in, t.type
"""

# A dead letter becomes a new pending task with tries 0, linked both ways; what it did once (`run_once`) stays done, so
# its effects go with it, by effect_pkey. DO NOTHING: its key is taken again.
REQUEUE = """
WITH letter AS MATERIALIZED (
    SELECT d.* FROM taskrunner.dead_letter d WHERE d.id = %(id)s AND d.requeued_as IS NULL FOR UPDATE
), fresh AS (
    INSERT INTO taskrunner.task (id, tenant, queue, type, priority, payload, max_retries, unique_key, meta,
                                 requeued_from, maturity_at, created_at, fair_tenant)
    SELECT %(new_id)s, l.tenant, l.queue, l.type, l.priority, l.payload, l.max_retries, l.unique_key, l.meta, l.id,
           taskrunner.clock(), taskrunner.clock(),
           (SELECT l.tenant FROM taskrunner.queue_settings q WHERE q.queue = l.queue AND q.fair)
      FROM letter l
    ON CONFLICT DO NOTHING
    RETURNING id, queue, priority, requeued_from, type
), linked AS (
    UPDATE taskrunner.dead_letter d SET requeued_as = f.id FROM fresh f WHERE d.id = f.requeued_from RETURNING d.id
), taken_over AS (
    UPDATE taskrunner.effect e SET task_id = f.id FROM fresh f WHERE e.task_id = f.requeued_from
)
SELECT f.id, f.queue, f.priority, 0::float8 AS due_in, f.type FROM fresh f
"""

DELETE_DEAD = "DELETE FROM taskrunner.dead_letter d WHERE d.id = %(id)s RETURNING d.id, d.type"

# Where a task is now, for the message of a conflict; and its key's holder, for a requeue.
STATE = """
SELECT t.state, t.type, t.unique_key, NULL::uuid AS requeued_as, NULL::uuid AS key_holder
  FROM taskrunner.task t WHERE t.id = %(id)s
UNION ALL
SELECT h.state, h.type, h.unique_key, NULL, NULL FROM taskrunner.task_history h WHERE h.id = %(id)s
UNION ALL
SELECT CASE WHEN d.requeued_as IS NULL THEN 'dead' ELSE 'requeued' END, d.type, d.unique_key, d.requeued_as,
       (SELECT t.id FROM taskrunner.task t
         WHERE t.tenant = d.tenant AND t.type = d.type AND t.unique_key = d.unique_key)
  FROM taskrunner.dead_letter d WHERE d.id = %(id)s
"""

PAUSE_QUEUE = """
INSERT INTO taskrunner.queue_settings AS q (queue, paused, paused_at) VALUES (%(queue)s, %(paused)s, taskrunner.clock())
ON CONFLICT (queue) DO UPDATE SET paused = EXCLUDED.paused,
       paused_at = CASE WHEN EXCLUDED.paused THEN EXCLUDED.paused_at END
RETURNING q.queue
"""
