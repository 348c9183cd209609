"""What people do to many tasks at once, in SQL: a batch of ids, each statement RETURNing whom it changed.

Each row is found by its primary key and locked in the order of the ids; one that somebody else has locked is left over,
so that one open transaction holds up nobody's thousand.
"""

# In the transaction of a batch: what is in the way is not waited for long, and an API's client not kept waiting.
PATIENCE = """
SELECT set_config('lock_timeout', %(lock)s, true), set_config('statement_timeout', %(statement)s, true)
"""

# Of the live ones, those that nobody has locked; ours until the end of the transaction.
FREE = """
SELECT t.id FROM taskrunner.task t
 WHERE t.id = ANY(%(ids)s::uuid[])
 ORDER BY t.id FOR UPDATE OF t SKIP LOCKED
"""

# Who is still there of those that were not changed: somebody has locked them.
LIVE = "SELECT t.id FROM taskrunner.task t WHERE t.id = ANY(%(ids)s::uuid[])"
DEAD = "SELECT d.id FROM taskrunner.dead_letter d WHERE d.id = ANY(%(ids)s::uuid[]) AND d.requeued_as IS NULL"

# As RESCHEDULE of one: a cancel that came too late for an earlier run is taken back.
RESCHEDULE = """
WITH locked AS MATERIALIZED (
    SELECT t.id FROM taskrunner.task t
     WHERE t.id = ANY(%(ids)s::uuid[]) AND t.state = 'pending'
     ORDER BY t.id FOR UPDATE OF t SKIP LOCKED
)
UPDATE taskrunner.task t
   SET maturity_at = coalesce(%(at)s, taskrunner.clock() + %(delay)s::interval), cancel_requested_at = NULL
 WHERE t.id = ANY(ARRAY(SELECT l.id FROM locked l))
RETURNING t.id, t.queue, t.priority, date_part('epoch', t.maturity_at - taskrunner.clock()) AS due_in, t.type
"""

# As REQUEUE of one. DO NOTHING: a key is taken again, perhaps by another of this batch.
REQUEUE = """
WITH letter AS MATERIALIZED (
    SELECT d.*, m.new_id
      FROM unnest(%(ids)s::uuid[], %(new_ids)s::uuid[]) AS m(id, new_id)
      JOIN taskrunner.dead_letter d ON d.id = m.id
     WHERE d.requeued_as IS NULL
     ORDER BY d.id FOR UPDATE OF d SKIP LOCKED
), fresh AS (
    INSERT INTO taskrunner.task (id, tenant, queue, type, priority, payload, max_retries, unique_key, meta,
                                 requeued_from, maturity_at, created_at, fair_tenant)
    SELECT l.new_id, l.tenant, l.queue, l.type, l.priority, l.payload, l.max_retries, l.unique_key, l.meta, l.id,
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
SELECT l.id AS old_id, f.id, f.queue, f.priority, 0::float8 AS due_in, f.type
  FROM letter l LEFT JOIN fresh f ON f.requeued_from = l.id
"""

DELETE_DEAD = """
WITH locked AS MATERIALIZED (
    SELECT d.id FROM taskrunner.dead_letter d
     WHERE d.id = ANY(%(ids)s::uuid[]) AND d.requeued_as IS NULL
     ORDER BY d.id FOR UPDATE OF d SKIP LOCKED
)
DELETE FROM taskrunner.dead_letter d WHERE d.id = ANY(ARRAY(SELECT l.id FROM locked l))
RETURNING d.id, d.type
"""
