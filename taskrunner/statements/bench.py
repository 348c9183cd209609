"""What `taskrunner bench` asks: of the schemas that it makes for itself, and of what was run in them."""

# ── schemas ──────────────────────────────────────────────────────────────────────────────────────────────────────────

# Their names come as parameters: what a statement's own text says of our schema is said of the one in use.

MAY_CREATE = """
SELECT current_user::text AS role, current_database()::text AS database,
       has_database_privilege(current_database(), 'CREATE') AS allowed
"""

# Held by the session of the bench that works in the schema: a schema whose lock is free is a dead one's.
TRY_HOLD = "SELECT pg_try_advisory_lock(hashtextextended(%(name)s, 0))"

LET_GO = "SELECT pg_advisory_unlock(hashtextextended(%(name)s, 0))"

MADE = """
SELECT n.nspname::text AS name, d.description AS made
  FROM pg_catalog.pg_namespace n
  JOIN pg_catalog.pg_description d
       ON d.objoid = n.oid AND d.classoid = 'pg_catalog.pg_namespace'::regclass AND d.objsubid = 0
 WHERE n.nspname ~ %(pattern)s AND d.description LIKE %(mark)s AND pg_has_role(n.nspowner, 'USAGE')
 ORDER BY n.nspname
"""

SERVER = """
SELECT current_setting('server_version') AS version, current_setting('fsync') AS fsync,
       current_setting('synchronous_commit') AS synchronous_commit
"""

# ── figures ──────────────────────────────────────────────────────────────────────────────────────────────────────────

# What autovacuum does to a table that has grown, a minute later.
VACUUM = "VACUUM (ANALYZE) taskrunner.task"

SUCCEEDED = """
SELECT coalesce(sum(s.count), 0)::bigint FROM taskrunner.task_stats s WHERE s.outcome = 'succeeded'
"""

# From the first start to the last finish, by the database's clock: a runner's own start is not counted, every
# acknowledgement is.
SPAN = """
SELECT count(*), extract(epoch FROM max(h.finished_at) - min(h.started_at))::float8
  FROM taskrunner.task_history h
 WHERE h.type = %(type)s AND h.state = 'succeeded'
"""

RESULTS = "SELECT h.id, (h.result #>> '{}')::float8 FROM taskrunner.task_history h WHERE h.type = %(type)s"
