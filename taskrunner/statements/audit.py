"""What people did, and to what."""

from __future__ import annotations

# Whose task it is, before something is done to it: afterwards it may be gone. Primary keys.
WHOSE = """
SELECT coalesce((SELECT t.tenant FROM taskrunner.task t WHERE t.id = %(id)s),
                (SELECT d.tenant FROM taskrunner.dead_letter d WHERE d.id = %(id)s))
"""

# In the transaction of the action: both are stored, or neither. A request that is sent again, because its reply was
# lost, comes within the hour: it is found by audit_target.
RECORD = """
INSERT INTO taskrunner.audit (acted_at, tenant, actor, action, target, details)
SELECT taskrunner.clock(), coalesce(%(tenant)s, taskrunner.bound_tenant(), 'default'), %(actor)s, %(action)s,
       %(target)s, %(details)s::jsonb
 WHERE NOT EXISTS (SELECT FROM taskrunner.audit a
        WHERE a.target = %(target)s AND a.acted_at > taskrunner.clock() - interval '1 hour'
          AND a.details ->> 'request' = %(details)s::jsonb ->> 'request')
RETURNING id
"""

# Backwards by the primary key, %(room)s rows at most, of which those that are wanted: `last` is where the next page
# goes on, NULL where there is no more.
LIST = """
WITH looked AS MATERIALIZED (
    SELECT a.id, a.acted_at, a.tenant, a.actor, a.action, a.target, a.details - 'request' AS details
      FROM taskrunner.audit a
     WHERE a.id < coalesce(%(after)s::bigint, 9223372036854775807)
     ORDER BY a.id DESC LIMIT %(room)s
), wanted AS (
    SELECT l.* FROM looked l
     WHERE (%(actor)s::text IS NULL OR l.actor = %(actor)s)
       AND (%(action)s::text IS NULL OR l.action = %(action)s OR starts_with(l.action, %(action)s || '.'))
       AND (%(target)s::text IS NULL OR l.target = %(target)s)
       AND (%(tenant)s::text IS NULL OR l.tenant = %(tenant)s)
       AND (%(since)s::timestamptz IS NULL OR l.acted_at >= %(since)s)
     ORDER BY l.id DESC LIMIT %(limit)s
)
SELECT w.id, w.acted_at, w.tenant, w.actor, w.action, w.target, w.details,
       CASE WHEN (SELECT count(*) FROM wanted) = %(limit)s THEN (SELECT min(id) FROM wanted)
            WHEN (SELECT count(*) FROM looked) = %(room)s THEN (SELECT min(id) FROM looked) END AS last
  FROM (SELECT 1) one LEFT JOIN wanted w ON true
 ORDER BY w.id DESC
"""

# Of one thing, by audit_target.
OF_TARGET = """
SELECT a.id, a.acted_at, a.tenant, a.actor, a.action, a.target, a.details - 'request' AS details
  FROM taskrunner.audit a
 WHERE a.target = %(target)s
 ORDER BY a.id DESC LIMIT %(limit)s
"""
