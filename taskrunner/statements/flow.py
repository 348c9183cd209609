"""Tasks that wait for tasks, in SQL: added, inherited by a requeued task, cancelled, retried and shown.

Whoever adds a child updates its live parents first, in the order of their ids, and holds their locks until it has
committed: see `ending`. A parent that is not live then has ended, and a new statement finds out how.
"""

from taskrunner.statements.cycle import COUNTED, TOLD

# The live ones of these are parents from now on; by the primary key. The rest have ended: none ends while we hold this.
MARK_PARENTS = """
WITH locked AS MATERIALIZED (
    SELECT t.id, t.tenant, t.type, t.has_children FROM taskrunner.task t
     WHERE t.id = ANY(%(ids)s::uuid[])
     ORDER BY t.id FOR NO KEY UPDATE OF t
), marked AS (
    UPDATE taskrunner.task t SET has_children = true FROM locked l WHERE t.id = l.id AND NOT l.has_children
)
SELECT l.id, l.tenant, l.type, 'live' AS state, NULL::uuid AS requeued_as FROM locked l
"""

# How parents have ended. A dead letter is locked, so that it is either requeued before or will see our edges.
ENDED_PARENTS = """
WITH dead AS MATERIALIZED (
    SELECT d.id, d.tenant, d.type, d.requeued_as FROM taskrunner.dead_letter d
     WHERE d.id = ANY(%(ids)s::uuid[])
     ORDER BY d.id FOR SHARE OF d
)
SELECT d.id, d.tenant, d.type, 'dead' AS state, d.requeued_as FROM dead d
UNION ALL
SELECT h.id, h.tenant, h.type, h.state, NULL FROM taskrunner.task_history h
 WHERE h.id = ANY(%(ids)s::uuid[]) AND h.finished_at >= %(since)s
"""

LINK = """
INSERT INTO taskrunner.dependency (parent_id, child_id, tenant, on_failure)
SELECT e.parent_id, e.child_id, %(tenant)s, e.on_failure
  FROM unnest(%(parents)s::uuid[], %(children)s::uuid[], %(modes)s::text[]) AS e(parent_id, child_id, on_failure)
ON CONFLICT (parent_id, child_id) DO NOTHING
"""

# Inserted in this very transaction: nobody has seen it pending.
BLOCK = """
UPDATE taskrunner.task t SET state = 'blocked', waits_for = n.waits_for
  FROM unnest(%(ids)s::uuid[], %(waits)s::int[]) AS n(id, waits_for)
 WHERE t.id = n.id AND t.state = 'pending'
RETURNING t.id
"""

# A whole flow of new tasks of one tenant, in one statement; the columns are those of enqueue.ADD_MANY, and of each task
# for how many parents it waits (NULL: none) and whether it has children.
ADD_FLOW = """
INSERT INTO taskrunner.task (id, tenant, queue, type, priority, payload, max_retries, maturity_at, created_at,
                             fair_tenant, state, waits_for, has_children)
SELECT n.id, %(tenant)s, (%(queues)s::text[])[n.place], (%(types)s::text[])[n.place],
       (%(priorities)s::int[])[n.place], n.payload::jsonb, (%(max_retries)s::int[])[n.place],
       taskrunner.clock(), taskrunner.clock(),
       (ARRAY(SELECT CASE WHEN q.fair THEN %(tenant)s::text END
                FROM unnest(%(queues)s::text[]) WITH ORDINALITY AS k(queue, place)
                LEFT JOIN taskrunner.queue_settings q ON q.queue = k.queue ORDER BY k.place))[n.place],
       CASE WHEN n.waits_for IS NULL THEN 'pending' ELSE 'blocked' END, n.waits_for, n.has_children
  FROM unnest(%(ids)s::uuid[], %(payloads)s::text[], %(places)s::int[], %(waits)s::int[], %(parents)s::bool[])
       AS n(id, payload, place, waits_for, has_children)
"""

# The same for tasks that have been inserted one by one, because they have keys.
SHAPE = """
UPDATE taskrunner.task t
   SET state = CASE WHEN n.waits_for IS NULL THEN 'pending' ELSE 'blocked' END, waits_for = n.waits_for,
       has_children = n.has_children
  FROM unnest(%(ids)s::uuid[], %(waits)s::int[], %(parents)s::bool[]) AS n(id, waits_for, has_children)
 WHERE t.id = n.id
RETURNING t.id
"""

# Which of these tasks are known, in whatever state.
KNOWN = """
SELECT t.id FROM taskrunner.task t WHERE t.id = ANY(%(ids)s::uuid[])
UNION
SELECT h.id FROM taskrunner.task_history h WHERE h.id = ANY(%(ids)s::uuid[]) AND h.finished_at >= %(since)s
UNION
SELECT d.id FROM taskrunner.dead_letter d WHERE d.id = ANY(%(ids)s::uuid[])
"""

# ── whole flows ──────────────────────────────────────────────────────────────────────────────────────────────────────

# All that is connected with a task by dependencies, upwards and downwards, and by requeues onwards.
# An index descent or three a task: dependency_pkey, dependency_child, the primary key of the dead letters. The nearest
# come first, and no more are looked for than `most`, where that is given.
FLOW = """
WITH RECURSIVE flow(id) AS (
    SELECT %(id)s::uuid
    UNION
    SELECT n.id FROM flow f CROSS JOIN LATERAL (
           SELECT d.child_id AS id FROM taskrunner.dependency d WHERE d.parent_id = f.id
           UNION ALL
           SELECT d.parent_id FROM taskrunner.dependency d WHERE d.child_id = f.id
           UNION ALL
           SELECT l.requeued_as FROM taskrunner.dead_letter l WHERE l.id = f.id AND l.requeued_as IS NOT NULL) n
)
SELECT f.id FROM flow f LIMIT %(most)s::bigint
"""

# Pending and blocked tasks → history as cancelled.
CANCEL_ALL = (
    """
WITH locked AS MATERIALIZED (
    SELECT t.id FROM taskrunner.task t
     WHERE t.id = ANY(%(ids)s::uuid[]) AND t.state IN ('pending', 'blocked')
     ORDER BY t.id FOR UPDATE OF t
), gone AS (
    DELETE FROM taskrunner.task t WHERE t.id = ANY(ARRAY(SELECT l.id FROM locked l)) RETURNING t.*
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
    RETURNING id, tenant, queue, type, state AS outcome, 0::float8 AS run_seconds, 0::float8 AS wait_seconds
), """
    + COUNTED
    + """
SELECT g.id, g.type, 'cancelled' AS state, g.has_children FROM gone g
"""
)

REQUEST_CANCEL_ALL = """
WITH locked AS MATERIALIZED (
    SELECT t.id FROM taskrunner.task t
     WHERE t.id = ANY(%(ids)s::uuid[]) AND t.state = 'running'
     ORDER BY t.id FOR UPDATE OF t
), asked AS (
    UPDATE taskrunner.task t SET cancel_requested_at = coalesce(t.cancel_requested_at, taskrunner.clock())
      FROM locked l WHERE t.id = l.id
    RETURNING t.id
)
SELECT a.id, pg_notify('taskrunner_cancel', a.id::text) IS NULL AS told FROM asked a
"""

# The dead of a flow that nobody has requeued, locked; and, for a repeat, those that somebody has.
DEAD = """
SELECT d.id FROM taskrunner.dead_letter d
 WHERE d.id = ANY(%(ids)s::uuid[]) AND d.requeued_as IS NULL
 ORDER BY d.id FOR UPDATE OF d
"""

REQUEUED = """
SELECT d.id, d.requeued_as FROM taskrunner.dead_letter d
 WHERE d.id = ANY(%(ids)s::uuid[]) AND d.requeued_as IS NOT NULL
"""

# ── what a requeued task inherits ────────────────────────────────────────────────────────────────────────────────────

# The parents of the old one, or what has been made of them since.
INHERIT_PARENTS = """
WITH RECURSIVE edge(child_id, parent_id, tenant, on_failure) AS (
    SELECT m.new_id, d.parent_id, d.tenant, d.on_failure
      FROM unnest(%(old_ids)s::uuid[], %(new_ids)s::uuid[]) AS m(old_id, new_id)
      JOIN taskrunner.dependency d ON d.child_id = m.old_id
    UNION
    SELECT e.child_id, l.requeued_as, e.tenant, e.on_failure
      FROM edge e JOIN taskrunner.dead_letter l ON l.id = e.parent_id AND l.requeued_as IS NOT NULL
)
INSERT INTO taskrunner.dependency (parent_id, child_id, tenant, on_failure)
SELECT e.parent_id, e.child_id, e.tenant, e.on_failure FROM edge e
 WHERE NOT EXISTS (SELECT FROM taskrunner.dead_letter l WHERE l.id = e.parent_id AND l.requeued_as IS NOT NULL)
ON CONFLICT (parent_id, child_id) DO NOTHING
RETURNING parent_id
"""

# The children that still wait for the old one.
INHERIT_CHILDREN = """
UPDATE taskrunner.dependency d SET parent_id = m.new_id
  FROM unnest(%(old_ids)s::uuid[], %(new_ids)s::uuid[]) AS m(old_id, new_id)
 WHERE d.parent_id = m.old_id AND d.on_failure = 'wait'
   AND EXISTS (SELECT FROM taskrunner.task t WHERE t.id = d.child_id AND t.state = 'blocked')
RETURNING d.parent_id
"""

# For how many live parents each of these waits, whose locks are ours.
LIVE_PARENTS = """
SELECT d.child_id, count(*)::int AS count
  FROM taskrunner.dependency d JOIN taskrunner.task t ON t.id = d.parent_id
 WHERE d.child_id = ANY(%(ids)s::uuid[])
 GROUP BY d.child_id
"""

# ── shown ────────────────────────────────────────────────────────────────────────────────────────────────────────────

# Its parents, by dependency_child, and its children, by the primary key: so many of each.
FAMILY = """
(SELECT d.parent_id, d.child_id FROM taskrunner.dependency d
  WHERE d.child_id = %(id)s ORDER BY d.parent_id LIMIT %(most)s)
UNION ALL
(SELECT d.parent_id, d.child_id FROM taskrunner.dependency d
  WHERE d.parent_id = %(id)s ORDER BY d.child_id LIMIT %(most)s)
"""

FAMILY_SIZE = """
SELECT (SELECT count(*) FROM taskrunner.dependency d WHERE d.child_id = %(id)s) AS parents,
       (SELECT count(*) FROM taskrunner.dependency d WHERE d.parent_id = %(id)s) AS children
"""

EDGES = """
SELECT d.parent_id, d.child_id FROM taskrunner.dependency d
 WHERE d.parent_id = ANY(%(ids)s::uuid[]) AND d.child_id = ANY(%(ids)s::uuid[])
 ORDER BY d.parent_id, d.child_id
"""

MEMBERS = """
SELECT t.id, t.type, t.state, NULL::uuid AS requeued_as FROM taskrunner.task t WHERE t.id = ANY(%(ids)s::uuid[])
UNION ALL
SELECT h.id, h.type, h.state, NULL FROM taskrunner.task_history h
 WHERE h.id = ANY(%(ids)s::uuid[]) AND h.finished_at >= %(since)s
UNION ALL
SELECT d.id, d.type, 'dead', d.requeued_as FROM taskrunner.dead_letter d WHERE d.id = ANY(%(ids)s::uuid[])
"""

PARENT_IDS = "SELECT d.parent_id FROM taskrunner.dependency d WHERE d.child_id = %(id)s"

# What parents came to.
PARENTS = """
SELECT h.id, h.state, h.result FROM taskrunner.task_history h
 WHERE h.id = ANY(%(ids)s::uuid[]) AND h.finished_at >= %(since)s
UNION ALL
SELECT d.id, 'dead', NULL FROM taskrunner.dead_letter d WHERE d.id = ANY(%(ids)s::uuid[])
 ORDER BY id
"""
