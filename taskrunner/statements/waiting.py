"""What those say who wait for a task's end, in SQL; the statements that end a task answer by NOTIFY: `cycle.TOLD`."""

# Of these tasks the live ones, and whether the statement that ends them will tell. By the primary key. A row that
# somebody has locked is left out, to be asked for again: who waits must not wait for a lock, nor hold up who ends it.
# The mark may get lost with the server, as do those who wait, so its commit waits for no disk: a cycle that meets the
# row's lock would try again only 0.5 s later.
AWAIT = """
WITH there AS MATERIALIZED (
    SELECT t.id, t.awaited FROM taskrunner.task t WHERE t.id = ANY(%(ids)s::uuid[])
       AND (%(tenant)s::text IS NULL OR t.tenant = %(tenant)s)
), locked AS MATERIALIZED (
    SELECT t.id FROM taskrunner.task t
     WHERE t.id = ANY(ARRAY(SELECT h.id FROM there h WHERE NOT h.awaited))
     ORDER BY t.id FOR UPDATE SKIP LOCKED
), marked AS (
    UPDATE taskrunner.task t SET awaited = true FROM locked l WHERE t.id = l.id RETURNING t.id
)
SELECT h.id, h.awaited OR EXISTS (SELECT FROM marked m WHERE m.id = h.id) AS awaited
  FROM there h CROSS JOIN (SELECT set_config('synchronous_commit', 'off', true)) s
"""

# The same for a login that may only read: it can mark nothing, and finds what somebody else has marked.
LOOK = """
SELECT t.id, t.awaited FROM taskrunner.task t
 WHERE t.id = ANY(%(ids)s::uuid[]) AND (%(tenant)s::text IS NULL OR t.tenant = %(tenant)s)
"""
