"""What `doctor` asks, in SQL: the server's own views, and bounded looks at the tables. Nothing here changes a row.

Any login may read these views. Of sessions of others they tell it the name and how far back they reach, not since when:
those columns are NULL then.
"""

from taskrunner.statements.sessions import CLIENT

# For the transaction of one check: it is about a sick database and must not hang with it, nor queue for anybody's lock.
BRIEF = (
    "SELECT set_config('statement_timeout', %(patience)s::text, true), set_config('lock_timeout', '200ms', true),"
    " set_config('transaction_read_only', 'on', true)"
)

# ── the server ───────────────────────────────────────────────────────────────────────────────────────────────────────

SERVER = (
    """
SELECT current_setting('synchronous_commit') AS synchronous_commit, current_setting('fsync') AS fsync,
       current_setting('full_page_writes') AS full_page_writes, current_setting('autovacuum') AS autovacuum,
       pg_is_in_recovery() AS standby,
       (SELECT count(*) FROM pg_stat_activity a WHERE """
    + CLIENT
    + """) AS connections,
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int AS room
"""
)

CLOCK = "SELECT extract(epoch FROM clock_timestamp())::float8"

# Whose transaction keeps vacuum from removing rows: by what it sees (xmin) or has begun (xid). Vacuum itself does not.
PINNING = """
SELECT a.pid, coalesce(a.usename, '')::text AS login, a.application_name, coalesce(a.state, '') AS state,
       greatest(age(a.backend_xmin), age(a.backend_xid)) AS transactions,
       extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS open_seconds,
       extract(epoch FROM clock_timestamp() - a.query_start)::float8 AS query_seconds
  FROM pg_stat_activity a
 WHERE coalesce(a.backend_xmin, a.backend_xid) IS NOT NULL AND a.pid <> pg_backend_pid()
   AND (a.datname = current_database() OR a.datname IS NULL)
   AND coalesce(a.backend_type, '') <> 'autovacuum worker' AND coalesce(a.query, '') NOT ILIKE 'vacuum%%'
   AND (a.xact_start < clock_timestamp() - %(patience)s::interval
        OR a.xact_start IS NULL AND greatest(age(a.backend_xmin), age(a.backend_xid)) > 100000)
 ORDER BY transactions DESC LIMIT 20
"""

PREPARED = """
SELECT p.gid, p.owner::text AS login, extract(epoch FROM clock_timestamp() - p.prepared)::float8 AS open_seconds,
       age(p.transaction) AS transactions
  FROM pg_prepared_xacts p
 WHERE p.database = current_database() AND p.prepared < clock_timestamp() - %(patience)s::interval
 ORDER BY p.prepared LIMIT 20
"""

SLOTS = """
SELECT s.slot_name::text AS slot, age(s.xmin) AS transactions
  FROM pg_replication_slots s
 WHERE s.xmin IS NOT NULL AND NOT s.active AND age(s.xmin) > 10000
 ORDER BY transactions DESC LIMIT 20
"""

# Transactions that have locked rows of tasks, or may have: the mode of the table's lock tells, any login may read it.
# Readers lock no rows, nor do VACUUM, ANALYZE and CREATE INDEX CONCURRENTLY (ShareUpdateExclusiveLock).
HOLDERS = """
SELECT DISTINCT a.pid, coalesce(a.usename, '')::text AS login, a.application_name, coalesce(a.state, '') AS state,
       extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS open_seconds
  FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
 WHERE l.locktype = 'relation' AND l.relation = 'taskrunner.task'::regclass AND l.granted
   AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
   AND l.mode NOT IN ('AccessShareLock', 'ShareUpdateExclusiveLock') AND l.pid <> pg_backend_pid()
   AND a.xact_start < clock_timestamp() - %(patience)s::interval
   AND coalesce(a.backend_type, '') <> 'autovacuum worker'
 ORDER BY open_seconds DESC LIMIT 20
"""

TABLES = """
SELECT c.relname::text AS name, s.n_live_tup AS live, s.n_dead_tup AS dead,
       pg_relation_size(c.oid) AS size,
       extract(epoch FROM clock_timestamp() - greatest(s.last_vacuum, s.last_autovacuum))::float8 AS vacuumed_seconds,
       coalesce('autovacuum_enabled=false' = ANY(c.reloptions) OR 'autovacuum_enabled=off' = ANY(c.reloptions), false)
           AS off
  FROM pg_stat_all_tables s JOIN pg_class c ON c.oid = s.relid
 WHERE s.schemaname = 'taskrunner'
 ORDER BY dead DESC, name
"""

# The listeners of runners say by their names whose they are, and give a sign of life every few seconds.
LISTENERS = """
SELECT right(a.application_name, 36) AS runner,
       min(extract(epoch FROM clock_timestamp() - a.state_change)::float8) AS quiet_seconds
  FROM pg_stat_activity a
 WHERE a.datname = current_database() AND a.application_name LIKE 'taskrunner listen ____%%'
 GROUP BY 1
"""

ENCRYPTED = """
SELECT coalesce(host(inet_server_addr()), '') AS address,
       coalesce((SELECT s.ssl FROM pg_stat_ssl s WHERE s.pid = pg_backend_pid()), false) AS encrypted
"""

# ── the fleet and its work ───────────────────────────────────────────────────────────────────────────────────────────

# Those that a rescue should have removed by now, with what they still hold: by task_running, a thousand at most.
LEASES = """
SELECT r.id, r.kind, r.host, r.pid, extract(epoch FROM taskrunner.clock() - r.lease_until)::float8 AS ended_seconds,
       (SELECT count(*) FROM (SELECT FROM taskrunner.task t
                               WHERE t.runner_id = r.id AND t.state = 'running' LIMIT 1000) n) AS tasks
  FROM taskrunner.runner r
 WHERE r.lease_until < taskrunner.clock() - %(overdue)s::interval
 ORDER BY tasks DESC, r.lease_until LIMIT 50
"""

# The first task of each queue, type and priority, by a skip scan over task_claim, and how many are due behind it.
FRONTS = """
WITH RECURSIVE front(queue, type, priority, maturity_at, id, crashes, place) AS (
    (SELECT t.queue, t.type, t.priority, t.maturity_at, t.id, t.crashes, 1
       FROM taskrunner.task t WHERE t.state = 'pending'
      ORDER BY t.queue, t.type, t.priority, t.maturity_at, t.id LIMIT 1)
    UNION ALL
    SELECT n.queue, n.type, n.priority, n.maturity_at, n.id, n.crashes, f.place + 1
      FROM front f CROSS JOIN LATERAL (
           SELECT t.queue, t.type, t.priority, t.maturity_at, t.id, t.crashes
             FROM taskrunner.task t
            WHERE t.state = 'pending' AND (t.queue, t.type, t.priority) > (f.queue, f.type, f.priority)
            ORDER BY t.queue, t.type, t.priority, t.maturity_at, t.id LIMIT 1) n
     WHERE f.place < 1000
)
SELECT f.queue, f.type, f.priority, f.id, f.crashes,
       extract(epoch FROM taskrunner.clock() - f.maturity_at)::float8 AS due_seconds,
       (SELECT count(*) FROM (
            SELECT FROM taskrunner.task t
             WHERE t.state = 'pending' AND t.queue = f.queue AND t.type = f.type AND t.priority = f.priority
               AND t.maturity_at <= taskrunner.clock() LIMIT 100) n) AS due
  FROM front f
 ORDER BY f.maturity_at
"""

# The queues that each of these runners has taken from since a minute or two: what it claimed, and what it ended. By
# task_running, which is small, and task_stats_pkey, which begins with the minute.
TAKEN = """
SELECT t.runner_id, t.queue FROM taskrunner.task t
 WHERE t.state = 'running' AND t.runner_id = ANY(%(runners)s::uuid[])
   AND t.claimed_at > taskrunner.clock() - %(lately)s::interval
UNION
SELECT s.runner_id, s.queue FROM taskrunner.task_stats s
 WHERE s.minute >= date_trunc('minute', taskrunner.clock() - %(lately)s::interval)
   AND s.runner_id = ANY(%(runners)s::uuid[])
"""

PAUSED = """
SELECT q.queue, extract(epoch FROM taskrunner.clock() - q.paused_at)::float8 AS seconds
  FROM taskrunner.queue_settings q WHERE q.paused
"""

# By schedule_due.
TICKS = """
SELECT s.name, s.tenant, s.type, s.timezone, s.last_error,
       extract(epoch FROM taskrunner.clock() - s.next_tick_at)::float8 AS late_seconds
  FROM taskrunner.schedule s
 WHERE NOT s.paused AND s.next_tick_at IS NOT NULL
 ORDER BY s.next_tick_at LIMIT 1000
"""

# By task_stats_pkey, which begins with the minute.
LAST_HOUR = """
SELECT coalesce(sum(s.count) FILTER (WHERE s.outcome = 'dead'), 0)::bigint AS dead,
       coalesce(sum(s.count) FILTER (WHERE s.outcome <> 'retried'), 0)::bigint AS ended
  FROM taskrunner.task_stats s
 WHERE s.minute >= date_trunc('minute', taskrunner.clock() - interval '1 hour')
"""

# ── history and rights ───────────────────────────────────────────────────────────────────────────────────────────────

IN_DEFAULT = "SELECT EXISTS (SELECT FROM taskrunner.task_history_default d)"

# Where there are roles: tables that any tenant could read whole, and partitions that somebody was let to.
UNSECURED = """
SELECT c.relname::text AS name,
       NOT c.relrowsecurity OR NOT EXISTS (SELECT FROM pg_policy o WHERE o.polrelid = c.oid AND NOT c.relispartition)
       AND NOT c.relispartition AS open,
       c.relispartition AND EXISTS (
           SELECT FROM aclexplode(c.relacl) x WHERE x.grantee <> c.relowner) AS granted
  FROM pg_class c
 WHERE c.relnamespace = 'taskrunner'::regnamespace AND c.relkind IN ('r', 'p')
   AND to_regrole(taskrunner.roles() || '_tenant') IS NOT NULL
   AND (c.relname = ANY(%(tables)s::text[]) OR c.relispartition AND c.relacl IS NOT NULL)
 ORDER BY name
"""

OWNS = """
SELECT pg_has_role(current_user, c.relowner, 'USAGE') FROM pg_class c WHERE c.oid = 'taskrunner.tenant_role'::regclass
"""
