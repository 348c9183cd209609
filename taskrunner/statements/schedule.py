"""Schedules in SQL: declare, tick, and what people do to them."""

# Nobody's open transaction holds up ticks or declarations for longer than this; who fails comes again.
PATIENCE = "SELECT set_config('lock_timeout', '200ms', true)"

NOW = "SELECT taskrunner.clock()"

# The whole row, the clock, and whether no live process knows the type: the beginning of every statement that reads one.
# Where a payload's secret fields are is noted in it, for those who only look: see `taskrunner.redaction`.
SEEN = """
SELECT s.id, s.tenant, s.name, s.type, s.trigger, s.timezone, s.start_at, s.end_at, s.jitter, s.key,
       s.queue, s.priority, s.next_tick_at, s.last_tick_at, s.last_task_id, s.last_error, s.ticks, s.skipped,
       s.paused, s.catch_up,
       (CASE jsonb_typeof(s.payload) WHEN 'object' THEN s.payload - '$secrets' ELSE s.payload END)::text AS payload,
       s.declared_in, s.declared_version, s.created_at, taskrunner.clock() AS now,
       NOT EXISTS (SELECT FROM taskrunner.runner r
                    WHERE r.lease_until > taskrunner.clock() AND s.type = ANY(r.types)) AS orphaned
  FROM taskrunner.schedule s
"""

# ── tick ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

# What is due, and what is next: walks schedule_due from its beginning. Takes no lock, so the reply is only a hint.
# %(held)s are those that failed a moment ago in the asking process; whoever changes one takes its error away with that.
LINE = """
SELECT s.id, s.name, extract(epoch FROM s.next_tick_at - taskrunner.clock())::float8
  FROM taskrunner.schedule s
 WHERE NOT s.paused AND s.next_tick_at IS NOT NULL AND s.type = ANY(%(types)s::text[])
   AND (s.last_error IS NULL OR NOT s.id = ANY(%(held)s::uuid[]))
 ORDER BY s.next_tick_at LIMIT %(room)s
"""

# One schedule for one tick. Two schedulers may want the same one: the row's lock decides, and rechecks that it is
# still due; who comes second gets no row. The clock stands still in a transaction, so %(now)s of ADVANCE is this one.
TAKE = (
    SEEN
    + """ WHERE s.id = %(id)s AND NOT s.paused AND s.next_tick_at <= taskrunner.clock()
   AND s.type = ANY(%(types)s::text[])
   FOR UPDATE OF s SKIP LOCKED
"""
)

# In the transaction that inserts the tasks and holds the row's lock: a tick is dealt with if and only if this commits.
ADVANCE = """
UPDATE taskrunner.schedule s
   SET next_tick_at = %(next_tick_at)s, last_tick_at = coalesce(%(last_tick_at)s, s.last_tick_at),
       last_task_id = coalesce(%(last_task_id)s, s.last_task_id), last_error = NULL,
       ticks = s.ticks + %(ticks)s, skipped = s.skipped + %(skipped)s
 WHERE s.id = %(id)s
RETURNING s.id
"""

# Why a tick failed, after its transaction has rolled back; whoever holds the row's lock is not waited for.
FAILED = """
UPDATE taskrunner.schedule s SET last_error = %(error)s
 WHERE s.last_error IS DISTINCT FROM %(error)s
   AND s.id = (SELECT l.id FROM taskrunner.schedule l WHERE l.id = %(id)s FOR UPDATE SKIP LOCKED)
RETURNING s.id
"""

# ── declare ──────────────────────────────────────────────────────────────────────────────────────────────────────────

# By schedule_name, the index of the unique constraint; names beside %(name)s are older ones of the type.
DECLARED = (
    SEEN
    + """ WHERE s.tenant = 'default' AND s.name = ANY(%(names)s::text[])
 ORDER BY s.name
   FOR UPDATE OF s
"""
)

# DO NOTHING: another scheduler declares the same at this moment; its row is looked at by the next statement.
INSERT = """
INSERT INTO taskrunner.schedule (id, tenant, name, type, trigger, timezone, start_at, end_at, jitter, key,
       queue, priority, next_tick_at, last_tick_at, last_task_id, ticks, skipped, paused, catch_up, payload,
       declared_in, declared_version, created_at)
VALUES (%(id)s, %(tenant)s, %(name)s, %(type)s, %(trigger)s, %(timezone)s, %(start_at)s, %(end_at)s, %(jitter)s,
        %(key)s, %(queue)s, %(priority)s, %(next_tick_at)s, %(last_tick_at)s, %(last_task_id)s, %(ticks)s, %(skipped)s,
        %(paused)s, %(catch_up)s, %(payload)s::jsonb, %(declared_in)s, %(declared_version)s, taskrunner.clock())
ON CONFLICT (tenant, name) DO NOTHING
RETURNING id
"""

REDECLARE = """
UPDATE taskrunner.schedule s
   SET trigger = %(trigger)s, timezone = %(timezone)s, catch_up = %(catch_up)s, jitter = %(jitter)s,
       next_tick_at = %(next_tick_at)s, declared_version = %(declared_version)s, last_error = NULL
 WHERE s.id = %(id)s AND s.declared_version <= %(declared_version)s
RETURNING s.id
"""

# The row stays, without a trigger: it is what tells an older release that its declaration is out of date.
END_DECLARED = """
UPDATE taskrunner.schedule s SET trigger = '', next_tick_at = NULL, declared_version = n.version, last_error = NULL
  FROM unnest(%(names)s::text[], %(versions)s::bigint[]) AS n(name, version)
 WHERE s.tenant = 'default' AND s.name = n.name AND s.declared_in = 'code' AND s.trigger <> ''
   AND s.declared_version <= n.version
RETURNING s.name
"""

# ── people ───────────────────────────────────────────────────────────────────────────────────────────────────────────

LIST = (
    SEEN
    + """ WHERE %(tenant)s::text IS NULL OR s.tenant = %(tenant)s
 ORDER BY s.tenant, s.name
"""
)

GET = (
    SEEN
    + """ WHERE s.tenant = %(tenant)s AND s.name = %(name)s
"""
)

LOCK = GET + "   FOR UPDATE OF s\n"

PAUSE = """
UPDATE taskrunner.schedule s SET paused = true WHERE s.tenant = %(tenant)s AND s.name = %(name)s
RETURNING s.name
"""

RESUME = """
UPDATE taskrunner.schedule s SET paused = false, next_tick_at = %(next_tick_at)s WHERE s.id = %(id)s
RETURNING s.name
"""

CHANGE = """
UPDATE taskrunner.schedule s
   SET type = %(type)s, trigger = %(trigger)s, timezone = %(timezone)s, start_at = %(start_at)s, end_at = %(end_at)s,
       jitter = %(jitter)s, key = %(key)s, queue = %(queue)s, priority = %(priority)s, catch_up = %(catch_up)s,
       payload = %(payload)s::jsonb, next_tick_at = %(next_tick_at)s, last_error = NULL
 WHERE s.id = %(id)s
RETURNING s.id
"""

REMOVE = "DELETE FROM taskrunner.schedule s WHERE s.id = %(id)s RETURNING s.name"
