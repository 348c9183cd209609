"""Partitions of history, and retention, in SQL; the DDL itself is in the store, its names through `psycopg.sql`."""

# ── partitions ───────────────────────────────────────────────────────────────────────────────────────────────────────

# One janitor at a time, the number is ours by chance; who comes second leaves it to the first.
ALONE = "SELECT pg_try_advisory_xact_lock(7235440318201948)"

# How long DDL may queue for its locks: whoever comes behind it in the queue waits as long.
PATIENCE = "SELECT set_config('lock_timeout', %(patience)s, true)"

# Today in UTC, whatever the session's, the database's or the server's time zone is.
TODAY = "SELECT (taskrunner.clock() AT TIME ZONE 'UTC')::date"

# Every partition but DEFAULT with its bounds, whoever made it, and what its comment says.
PARTITIONS = """
SELECT c.relname::text AS name,
       coalesce(p.bounds[2]::timestamptz, '0001-01-02 00:00+00') AS begins_at,
       coalesce(p.bounds[4]::timestamptz, '9999-12-30 00:00+00') AS ends_at,
       obj_description(c.oid, 'pg_class') AS note
  FROM pg_inherits i
  JOIN pg_class c ON c.oid = i.inhrelid
 CROSS JOIN LATERAL (SELECT regexp_match(pg_get_expr(c.relpartbound, c.oid),
       'FROM \\((MINVALUE|''([^'']+)'')\\) TO \\((MAXVALUE|''([^'']+)'')\\)') AS bounds) p
 WHERE i.inhparent = 'taskrunner.task_history'::regclass AND p.bounds IS NOT NULL
 ORDER BY 2
"""

# Days whose partition was missing when a task ended. DEFAULT is empty as a rule, so that this costs nothing.
# What somebody's own SQL has dated beyond any clock stays there: 'infinity' is no day.
STRANDED = """
SELECT DISTINCT (d.finished_at AT TIME ZONE 'UTC')::date FROM taskrunner.task_history_default d
 WHERE d.finished_at >= '2000-01-01 00:00+00' AND d.finished_at < taskrunner.clock() + interval '1 year'
 ORDER BY 1
"""

# Transactions that hold a lock on history or a partition of it. One that is named again a moment later is long: to
# wait for it would hold up everybody who comes behind. Any role may read pg_locks, unlike pg_stat_activity.
HOLDERS = """
SELECT DISTINCT l.virtualtransaction FROM pg_locks l
 WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
   AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
   AND (l.relation = 'taskrunner.task_history'::regclass OR l.relation IN (
        SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = 'taskrunner.task_history'::regclass))
"""

# For days to come. It keeps out other DDL, and neither readers nor writers. The parent comes first, as for everybody.
LOCK_PARENT = "LOCK TABLE ONLY taskrunner.task_history IN SHARE UPDATE EXCLUSIVE MODE"

# For days whose tasks are ending: a row that is on its way into DEFAULT, and waits there for our lock, would find that
# it does not belong there any more, and the finish would fail; a reader that waits there has chosen its partitions
# before ours was one of them, and would not find the tasks that we move. So all are kept out before they choose.
LOCK_PARENT_FROM_ALL = "LOCK TABLE ONLY taskrunner.task_history IN ACCESS EXCLUSIVE MODE"

# A reader that is in the way is not waited for, since the writers would wait with us.
LOCK_DEFAULT = "LOCK TABLE ONLY taskrunner.task_history_default IN ACCESS EXCLUSIVE MODE NOWAIT"

EXISTS = "SELECT to_regclass(%(name)s) IS NOT NULL"

# ── retention ────────────────────────────────────────────────────────────────────────────────────────────────────────
# Each deletes at most %(room)s rows, skips those that somebody has locked, and is repeated until nothing is left.

# What was stranded in DEFAULT, never moved, and is too old by now.
DROP_STRANDED = """
DELETE FROM taskrunner.task_history_default d
 WHERE d.ctid = ANY(ARRAY(SELECT o.ctid FROM taskrunner.task_history_default o
        WHERE o.finished_at < %(before)s LIMIT %(room)s FOR UPDATE SKIP LOCKED))
RETURNING 1
"""

# By dead_letter_finished. An open dead letter is never dropped; a requeued one is only of interest beside its new task.
DROP_REQUEUED = """
DELETE FROM taskrunner.dead_letter d
 WHERE d.id = ANY(ARRAY(SELECT o.id FROM taskrunner.dead_letter o
        WHERE o.finished_at < taskrunner.clock() - %(retention)s::interval AND o.requeued_as IS NOT NULL
        LIMIT %(room)s FOR UPDATE SKIP LOCKED))
RETURNING 1
"""

# By idempotency_key_expiry.
DROP_EXPIRED_KEYS = """
DELETE FROM taskrunner.idempotency_key k
 WHERE k.ctid = ANY(ARRAY(SELECT o.ctid FROM taskrunner.idempotency_key o
        WHERE o.expires_at < taskrunner.clock() ORDER BY o.expires_at LIMIT %(room)s FOR UPDATE SKIP LOCKED))
RETURNING 1
"""

# By task_stats_pkey, which begins with the minute.
DROP_STATS = """
DELETE FROM taskrunner.task_stats s
 WHERE s.ctid = ANY(ARRAY(SELECT o.ctid FROM taskrunner.task_stats o
        WHERE o.minute < taskrunner.clock() - %(retention)s::interval LIMIT %(room)s FOR UPDATE SKIP LOCKED))
RETURNING 1
"""

# Log lines and run_once values stay as long as their task is live or an open dead letter, whatever their age.
# By task_log_logged, which says in which pages old lines may lie.
DROP_LOGS = """
DELETE FROM taskrunner.task_log l
 WHERE l.id = ANY(ARRAY(SELECT o.id FROM taskrunner.task_log o
        WHERE o.logged_at < taskrunner.clock() - %(retention)s::interval
          AND NOT EXISTS (SELECT FROM taskrunner.task t WHERE t.id = o.task_id)
          AND NOT EXISTS (SELECT FROM taskrunner.dead_letter d WHERE d.id = o.task_id AND d.requeued_as IS NULL)
        LIMIT %(room)s FOR UPDATE SKIP LOCKED))
RETURNING 1
"""

# By audit_acted.
DROP_AUDIT = """
DELETE FROM taskrunner.audit a
 WHERE a.id = ANY(ARRAY(SELECT o.id FROM taskrunner.audit o
        WHERE o.acted_at < taskrunner.clock() - %(retention)s::interval LIMIT %(room)s FOR UPDATE SKIP LOCKED))
RETURNING 1
"""

DROP_EFFECTS = """
DELETE FROM taskrunner.effect e
 WHERE e.ctid = ANY(ARRAY(SELECT o.ctid FROM taskrunner.effect o
        WHERE o.done_at < taskrunner.clock() - %(retention)s::interval
          AND NOT EXISTS (SELECT FROM taskrunner.task t WHERE t.id = o.task_id)
          AND NOT EXISTS (SELECT FROM taskrunner.dead_letter d WHERE d.id = o.task_id AND d.requeued_as IS NULL)
        LIMIT %(room)s FOR UPDATE SKIP LOCKED))
RETURNING 1
"""

# Who came after whom, of children that nobody knows any more. By dependency_child: a UUIDv7 begins with the
# milliseconds at which it was made, and a task ends no earlier.
DROP_DEPENDENCIES = """
DELETE FROM taskrunner.dependency d
 WHERE d.ctid = ANY(ARRAY(SELECT o.ctid FROM taskrunner.dependency o
        WHERE o.child_id < (lpad(to_hex((extract(epoch FROM %(before)s::timestamptz) * 1000)::bigint), 12, '0')
                            || '70008000000000000000')::uuid
          AND NOT EXISTS (SELECT FROM taskrunner.task t WHERE t.id = o.child_id)
          AND NOT EXISTS (SELECT FROM taskrunner.dead_letter l WHERE l.id = o.child_id)
          AND NOT EXISTS (SELECT FROM taskrunner.task_history h WHERE h.id = o.child_id)
        LIMIT %(room)s FOR UPDATE SKIP LOCKED))
RETURNING 1
"""
