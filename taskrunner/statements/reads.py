"""What people look at, in SQL. The columns are the fields of the views in `taskrunner.reads`, in their order."""

NOW = "SELECT taskrunner.clock()"

# ── tasks ────────────────────────────────────────────────────────────────────────────────────────────────────────────

# A task in each of its three tables, in one shape. `taskrunner.reads.tasks` puts conditions and an order behind them.

LIVE = """
SELECT t.id, t.type, t.queue, t.tenant, t.state, t.priority, t.payload, t.tries, t.crashes, t.maturity_at, t.created_at,
       t.started_at, NULL::timestamptz AS finished_at, t.runner_id, t.errors, NULL::jsonb AS result, t.progress, t.meta
  FROM taskrunner.task t
 WHERE true"""

ENDED = """
SELECT t.id, t.type, t.queue, t.tenant, t.state, t.priority, t.payload, t.tries, t.crashes, t.maturity_at, t.created_at,
       t.started_at, t.finished_at, t.runner_id, t.errors, t.result, t.progress, t.meta
  FROM taskrunner.task_history t
 WHERE true"""

DEAD = """
SELECT t.id, t.type, t.queue, t.tenant, 'dead' AS state, t.priority, t.payload, t.tries, t.crashes, t.maturity_at,
       t.created_at, t.started_at, t.finished_at, t.runner_id, t.errors, NULL::jsonb AS result, t.progress, t.meta
  FROM taskrunner.dead_letter t
 WHERE true"""

DEAD_LETTER = """
SELECT t.id, t.type, t.queue, t.tenant, 'dead' AS state, t.priority, t.payload, t.tries, t.crashes, t.maturity_at,
       t.created_at, t.started_at, t.finished_at, t.runner_id, t.errors, NULL::jsonb AS result, t.progress, t.meta,
       t.requeued_as
  FROM taskrunner.dead_letter t
 WHERE true"""

# For lists that show a line of each task. Of a payload that is large (2 kB as stored, 4 kB as text) its first fields:
# texts cut, other values whole or not at all, so that what is secret by its name or its path is still found; of the
# errors the last one's first line; nothing of the rest but where the secrets are. Only what is small as stored is
# measured as text.
_BRIEF_PAYLOAD = """CASE WHEN CASE WHEN pg_column_size(t.payload) > 2000 THEN true
            ELSE octet_length(t.payload::text) > 4000 END
       THEN (SELECT coalesce(jsonb_object_agg(f.key, CASE
                        WHEN jsonb_typeof(f.value) = 'string' THEN to_jsonb(left(f.value #>> '{}', 120))
                        WHEN octet_length(f.value::text) <= 120 THEN f.value ELSE '"…"' END), '{}')
               FROM (SELECT e.key, e.value FROM jsonb_each(t.payload) e WHERE octet_length(e.key) <= 100 LIMIT 8) f)
       ELSE t.payload END AS payload"""
_BRIEF_ERRORS = """CASE WHEN t.errors = '[]' THEN t.errors ELSE jsonb_build_array(jsonb_build_object(
       'message', left(split_part(coalesce(t.errors -> -1 ->> 'message', ''), E'\\n', 1), 300))) END AS errors"""
_BRIEF_META = "jsonb_strip_nulls(jsonb_build_object('$secrets', t.meta -> '$secrets')) AS meta"


def _brief(select: str) -> str:
    made = select.replace("t.payload", _BRIEF_PAYLOAD).replace("t.errors", _BRIEF_ERRORS).replace("t.meta", _BRIEF_META)
    return made.replace(" t.result,", " NULL::jsonb AS result,").replace("t.progress", "NULL::jsonb AS progress")


LIVE_BRIEF, ENDED_BRIEF, DEAD_BRIEF, DEAD_LETTER_BRIEF = map(_brief, (LIVE, ENDED, DEAD, DEAD_LETTER))
BRIEF = {LIVE: LIVE_BRIEF, ENDED: ENDED_BRIEF, DEAD: DEAD_BRIEF, DEAD_LETTER: DEAD_LETTER_BRIEF}

# What a filter asks of each of these tables, by the filter's fields. `dead_letter` and both others have the columns.
FILTERS = {
    "type": " AND t.type = %(type)s",
    "queue": " AND t.queue = %(queue)s",
    "tenant": " AND t.tenant = %(tenant)s",
    "key": " AND t.unique_key = %(key)s",
    "since": " AND t.created_at >= %(since)s",
    "until": " AND t.created_at < %(until)s",
    "runner_id": " AND t.runner_id = %(runner_id)s",
    "ids": " AND t.id = ANY(%(ids)s::uuid[])",
    # The text is looked for as it stands: no pattern. Most tasks have no errors, and cost no more than that.
    "error": """ AND t.errors <> '[]' AND strpos(
       lower(concat_ws(E'\\n', t.errors -> -1 ->> 'message', t.errors -> -1 ->> 'traceback')), lower(%(error)s)) > 0""",
}
TYPE_PREFIX = " AND starts_with(t.type, %(type)s)"

# `@>`: equal, or a list that holds it. What is typed as a secret is found by nobody: an answer would tell its value.
PAYLOAD_FIELD = """ AND t.payload #> %(path)s::text[] @> ANY(%(values)s::text[]::jsonb[])
   AND CASE WHEN jsonb_typeof(t.meta -> '$secrets') = 'array' THEN NOT EXISTS (
            SELECT FROM jsonb_array_elements(t.meta -> '$secrets') m WHERE m.value ->> 0 IN (%(step)s, '*'))
       ELSE true END"""
META_FIELD = " AND t.meta #> %(path)s::text[] @> ANY(%(values)s::text[]::jsonb[])"

# How far down a page may look, by the primary keys alone; the states of history that are rare, by task_history_rare.
LIVE_IDS = "SELECT t.id FROM taskrunner.task t WHERE true"
ENDED_IDS = "SELECT t.id FROM taskrunner.task_history t WHERE true"
DEAD_IDS = "SELECT t.id FROM taskrunner.dead_letter t WHERE true"

# Where the partition begins in which a task created at this instant may have ended first: a task ends no earlier than
# it was created, so that nothing of the partitions before is asked for, and every row of the others counts.
REACH = """
SELECT max(p.bounds[1]::timestamptz) AS reach
  FROM pg_inherits i
  JOIN pg_class c ON c.oid = i.inhrelid
 CROSS JOIN LATERAL (
       SELECT regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \\(''([^'']+)''\\)') AS bounds) p
 WHERE i.inhparent = 'taskrunner.task_history'::regclass AND p.bounds[1]::timestamptz <= %(since)s
"""

# What failed and waits for its next try, the next one first, among the newest so many live tasks.
RETRYING = (
    LIVE
    + """ AND t.state = 'pending' AND t.tries > 0
   AND t.id >= coalesce((SELECT p.id FROM taskrunner.task p ORDER BY p.id DESC OFFSET %(room)s LIMIT 1),
                        '00000000-0000-0000-0000-000000000000'::uuid)
 ORDER BY t.maturity_at, t.id LIMIT %(limit)s"""
)

ONE_DEAD_LETTER = DEAD_LETTER + " AND t.id = %(id)s"

ONE = LIVE + " AND t.id = %(id)s\nUNION ALL" + ENDED + " AND t.id = %(id)s\nUNION ALL" + DEAD + " AND t.id = %(id)s"

# By the primary keys, in all partitions of history: a task's id does not tell the day of its end.
ENDED_ONES = ENDED + " AND t.id = ANY(%(ids)s::uuid[])\nUNION ALL" + DEAD + " AND t.id = ANY(%(ids)s::uuid[])"

# The newest dead letters, %(room)s at most, backwards by the primary key, among the newest ten times as many: most may
# have been requeued. Their messages are cut.
DEAD_ERRORS = """
SELECT d.id, d.type, d.finished_at, left(d.errors -> -1 ->> 'message', 400) AS message
  FROM taskrunner.dead_letter d
 WHERE d.requeued_as IS NULL AND (%(type)s::text IS NULL OR d.type = %(type)s)
   AND d.id >= coalesce((SELECT f.id FROM taskrunner.dead_letter f ORDER BY f.id DESC OFFSET 10 * %(room)s LIMIT 1),
                        '00000000-0000-0000-0000-000000000000')
 ORDER BY d.id DESC LIMIT %(room)s
"""

# ── figures ──────────────────────────────────────────────────────────────────────────────────────────────────────────

# One pass over the hot table, which holds no task that has ended.
WAITING = """
SELECT t.type, t.queue,
       count(*) FILTER (WHERE t.state = 'pending') AS pending,
       count(*) FILTER (WHERE t.state = 'pending' AND t.maturity_at <= taskrunner.clock()) AS due,
       count(*) FILTER (WHERE t.state = 'running') AS running,
       count(*) FILTER (WHERE t.state = 'blocked') AS blocked,
       count(*) FILTER (WHERE t.state = 'pending' AND t.tries > 0) AS retrying,
       extract(epoch FROM taskrunner.clock() - min(t.maturity_at) FILTER (
           WHERE t.state = 'pending' AND t.maturity_at <= taskrunner.clock()))::float8 AS oldest_due_seconds
  FROM taskrunner.task t
 WHERE %(tenant)s::text IS NULL OR t.tenant = %(tenant)s
 GROUP BY t.type, t.queue
"""

# History is big and is never counted: what ends is counted by the statement that ends it.
COUNTED = """
SELECT s.type, s.outcome, sum(s.count)::bigint AS count
  FROM taskrunner.task_stats s
 WHERE s.minute >= date_trunc('minute', taskrunner.clock() - interval '24 hours')
   AND (%(tenant)s::text IS NULL OR s.tenant = %(tenant)s)
 GROUP BY s.type, s.outcome
"""

# The last minute and what there is of this one: by task_stats_pkey, which begins with the minute.
RECENT = """
SELECT coalesce(sum(s.count) FILTER (WHERE s.outcome <> 'retried'), 0)::bigint AS ended,
       coalesce(sum(s.count) FILTER (WHERE s.outcome IN ('retried', 'dead')), 0)::bigint AS failed,
       extract(epoch FROM taskrunner.clock() - date_trunc('minute', taskrunner.clock() - interval '1 minute'))::float8
           AS seconds,
       (sum(s.wait_seconds) / sum(s.count))::float8 AS wait_seconds,
       (sum(s.run_seconds) / sum(s.count))::float8 AS run_seconds
  FROM taskrunner.task_stats s
 WHERE s.minute >= date_trunc('minute', taskrunner.clock() - interval '1 minute')
   AND (%(tenant)s::text IS NULL OR s.tenant = %(tenant)s)
"""

DEAD_BY_TYPE = """
SELECT d.type, count(*) AS count
  FROM taskrunner.dead_letter d
 WHERE d.requeued_as IS NULL AND (%(tenant)s::text IS NULL OR d.tenant = %(tenant)s)
 GROUP BY d.type
"""

KNOWN_TYPES = """
SELECT DISTINCT unnest(r.types) AS type FROM taskrunner.runner r WHERE r.lease_until > taskrunner.clock()
"""

NEXT_TICKS = """
SELECT s.type, min(s.next_tick_at) AS next_tick_at
  FROM taskrunner.schedule s
 WHERE NOT s.paused AND s.next_tick_at IS NOT NULL AND (%(tenant)s::text IS NULL OR s.tenant = %(tenant)s)
 GROUP BY s.type
"""

# ── runners, queues, schedules ───────────────────────────────────────────────────────────────────────────────────────

RUNNERS = """
SELECT r.id, r.kind, r.host, r.pid, r.slots, r.running, r.strays, r.queues, r.types, r.version, r.started_at,
       r.lease_until, extract(epoch FROM r.lease_until - taskrunner.clock())::float8 AS lease_seconds,
       r.lease_until > taskrunner.clock() AS alive
  FROM taskrunner.runner r
 ORDER BY alive DESC, r.kind, r.host, r.pid, r.id
"""

LIVE_RUNNERS = """
SELECT count(*) FROM taskrunner.runner r WHERE r.lease_until > taskrunner.clock() AND r.kind = 'runner'
"""

# The type of a pending task that no live runner knows.
UNATTENDED = """
SELECT t.type
  FROM taskrunner.task t
 WHERE t.id = %(id)s AND t.state = 'pending'
   AND NOT EXISTS (SELECT FROM taskrunner.runner r
                    WHERE r.lease_until > taskrunner.clock() AND r.kind = 'runner' AND t.type = ANY(r.types))
"""

# What each runner runs, the longest first, a few of each: by task_running.
AT_WORK = """
SELECT r.id AS runner_id, t.id, t.type, t.queue, t.started_at, t.progress
  FROM taskrunner.runner r
 CROSS JOIN LATERAL (SELECT w.id, w.type, w.queue, w.started_at, w.progress
                       FROM taskrunner.task w
                      WHERE w.state = 'running' AND w.runner_id = r.id
                      ORDER BY w.started_at NULLS LAST, w.id LIMIT %(each)s) t
"""

QUEUES = "SELECT q.queue, q.paused, q.paused_at, q.fair, q.weights FROM taskrunner.queue_settings q"

# For tenants: without the weights, whose keys are the others' names.
OPEN_QUEUES = (
    "SELECT q.queue, q.paused, q.fair FROM taskrunner.queue_settings q WHERE q.queue = ANY(%(queues)s::text[])"
)

SERVED = """
SELECT s.queue, count(*) AS runners
  FROM (SELECT unnest(r.queues) AS queue
          FROM taskrunner.runner r
         WHERE r.lease_until > taskrunner.clock() AND r.kind = 'runner') s
 GROUP BY s.queue
"""

_SCHEDULE = """
SELECT s.name, s.type, s.tenant, s.trigger, s.timezone, s.payload, s.paused,
       NOT EXISTS (SELECT FROM taskrunner.runner r
                    WHERE r.lease_until > taskrunner.clock() AND s.type = ANY(r.types)) AS orphaned,
       s.next_tick_at, s.last_tick_at, s.last_task_id, s.last_error, s.ticks, s.skipped, s.catch_up, s.declared_in,
       s.next_tick_at IS NULL AS ended, s.start_at, s.end_at, s.jitter, s.key, s.queue, s.priority, s.created_at
  FROM taskrunner.schedule s
"""

SCHEDULES = (
    _SCHEDULE
    + " WHERE %(tenant)s::text IS NULL OR s.tenant = %(tenant)s"
    + " ORDER BY s.next_tick_at ASC NULLS LAST, s.name, s.tenant"
)

# By schedule_name: its order stays while schedules tick, so that none comes twice, or never, while one turns pages.
SCHEDULE_PAGE = (
    _SCHEDULE
    + " WHERE (%(tenant)s::text IS NULL OR s.tenant = %(tenant)s)"
    + " AND (s.tenant, s.name) > (%(past_tenant)s::text, %(past_name)s::text)"
    + " ORDER BY s.tenant, s.name LIMIT %(limit)s::bigint"
)

SCHEDULE = _SCHEDULE + " WHERE s.name = %(name)s AND s.tenant = %(tenant)s"
