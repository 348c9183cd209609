"""Replacing in SQL: the live task of a key gets new work, at once if it waits, else as its successor.

A successor is new work for a task that runs. It waits in that task's row, under an id of its own, until the run ends:
then it becomes a task (`COME`), or, if the same task runs again, what that task does (`TAKES_OVER`).
"""

# Who has the key, locked, so that it neither starts nor ends until this is committed; by task_unique.
# Nobody: it ended before, or somebody's insert is not committed yet. ADD finds out, and waits for that one.
HOLDER = """
SELECT t.id, t.state, (t.successor ->> 'id')::uuid AS successor_id FROM taskrunner.task t
 WHERE t.tenant = %(tenant)s AND t.unique_key = %(unique_key)s AND t.type = ANY(%(types)s::text[])
 LIMIT 1
   FOR UPDATE
"""

# What a repeat after a lost reply is answered with: the task may have run with this work and ended since. Or the work
# has an id that was enqueued before, by whatever way.
REPLACED = """
SELECT k.task_id, true AS replaced FROM taskrunner.idempotency_key k
 WHERE k.tenant = %(tenant)s AND k.type = %(type)s AND k.key = 'replaced ' || %(id)s::uuid
UNION ALL
SELECT t.id, false FROM taskrunner.task t WHERE t.id = %(id)s
UNION ALL
SELECT h.id, false FROM taskrunner.task_history h WHERE h.id = %(id)s AND h.finished_at >= %(since)s
UNION ALL
SELECT d.id, false FROM taskrunner.dead_letter d WHERE d.id = %(id)s
"""

_NOTED = """noted AS (
    INSERT INTO taskrunner.idempotency_key (tenant, type, key, task_id, expires_at)
    VALUES (%(tenant)s, %(type)s, 'replaced ' || %(id)s::uuid, %(answer)s, taskrunner.clock() + interval '1 day')
    ON CONFLICT DO NOTHING
    RETURNING task_id
)"""

# New work for a task that waits; it is as good as new, but for its id, its place in a schedule and its past errors:
# also what the old work has done by `run_once` is the new one's to do again. The deaths of its runners stay counted:
# three are the limit for a task, whatever it does.
REPLACE = (
    "\nWITH "
    + _NOTED
    + """, forgotten AS (
    DELETE FROM taskrunner.effect e USING noted n WHERE e.task_id = %(holder)s
)
UPDATE taskrunner.task t
   SET payload = %(payload)s::jsonb, priority = %(priority)s, max_retries = %(max_retries)s, meta = %(meta)s::jsonb,
       queue = %(queue)s, tries = 0, progress = NULL, cancel_requested_at = NULL,
       maturity_at = coalesce(%(at)s::timestamptz, taskrunner.clock() + make_interval(secs => %(delay)s)),
       fair_tenant = (SELECT t.tenant FROM taskrunner.queue_settings q WHERE q.queue = %(queue)s AND q.fair)
 WHERE t.id = %(holder)s AND t.state IN ('pending', 'blocked') AND EXISTS (SELECT FROM noted)
RETURNING t.id, t.queue, t.priority, extract(epoch FROM t.maturity_at - taskrunner.clock())::float8 AS due_in, t.type,
          t.state
"""
)

# New work for a task that runs; an earlier successor's id stays, as that of any task that waits and is replaced.
# `named` leads from the successor's id to the task it waits behind: see FOLLOW.
SUCCEED = (
    "\nWITH "
    + _NOTED
    + """, named AS (
    INSERT INTO taskrunner.idempotency_key (tenant, type, key, task_id, expires_at)
    SELECT %(tenant)s, %(type)s, 'successor ' || %(answer)s::uuid, %(holder)s, taskrunner.clock() + interval '30 days'
      FROM noted
    ON CONFLICT DO NOTHING
)
UPDATE taskrunner.task t
   SET successor = jsonb_build_object(
       'id', %(answer)s::uuid, 'queue', %(queue)s::text, 'priority', %(priority)s::int,
       'payload', %(payload)s::jsonb, 'max_retries', %(max_retries)s::int, 'meta', %(meta)s::jsonb,
       'created_at', taskrunner.clock(),
       'maturity_at', coalesce(%(at)s::timestamptz, taskrunner.clock() + make_interval(secs => %(delay)s)))
 WHERE t.id = %(holder)s AND t.state NOT IN ('pending', 'blocked') AND EXISTS (SELECT FROM noted)
RETURNING t.id
"""
)

# What a task gets that is pending again: its successor's work, if there is one, which is then its own.
# A part of the SET of whatever hands a running task `t` back; a row without a successor is written as it is.
TAKES_OVER = """successor = NULL,
       payload = CASE WHEN t.successor IS NULL THEN t.payload ELSE t.successor -> 'payload' END,
       meta = CASE WHEN t.successor IS NULL THEN t.meta ELSE t.successor -> 'meta' END,
       queue = CASE WHEN t.successor IS NULL THEN t.queue ELSE t.successor ->> 'queue' END,
       priority = CASE WHEN t.successor IS NULL THEN t.priority ELSE (t.successor ->> 'priority')::int END,
       max_retries = CASE WHEN t.successor IS NULL THEN t.max_retries ELSE (t.successor ->> 'max_retries')::int END,
       cancel_requested_at = CASE WHEN t.successor IS NULL THEN t.cancel_requested_at END,
       fair_tenant = CASE WHEN t.successor IS NULL THEN t.fair_tenant
                          ELSE (SELECT t.tenant FROM taskrunner.queue_settings q
                                 WHERE q.queue = t.successor ->> 'queue' AND q.fair) END"""

# With it goes what the old work has done by `run_once`; `locked` tells which rows have a successor. Without any, no row
# of `effect` is looked at.
FORGOTTEN = """forgotten AS (
    DELETE FROM taskrunner.effect f
     WHERE f.task_id = ANY(ARRAY(SELECT l.id FROM locked l WHERE l.succeeded)::uuid[])
)"""

# The successors of tasks that an earlier statement of the transaction has deleted: %(rows)s are their rows as JSON.
# By the name of the type that the ended task had, perhaps an old one: that is the key's place that has become free.
# An id that is there already was not made by us: it must not keep the task from ending, and others with it.
COME = """
WITH gone AS MATERIALIZED (
    SELECT r.ended ->> 'tenant' AS tenant, r.ended ->> 'type' AS type, r.ended ->> 'unique_key' AS unique_key,
           r.ended -> 'successor' AS work
      FROM (SELECT t::jsonb AS ended FROM unnest(%(rows)s::text[]) AS u(t)) r
)
INSERT INTO taskrunner.task (id, tenant, queue, type, priority, payload, max_retries, unique_key, meta,
                             maturity_at, created_at, fair_tenant)
SELECT (g.work ->> 'id')::uuid, g.tenant, g.work ->> 'queue', g.type, (g.work ->> 'priority')::int,
       g.work -> 'payload', (g.work ->> 'max_retries')::int, g.unique_key, g.work -> 'meta',
       (g.work ->> 'maturity_at')::timestamptz, (g.work ->> 'created_at')::timestamptz,
       (SELECT g.tenant FROM taskrunner.queue_settings q WHERE q.queue = g.work ->> 'queue' AND q.fair)
  FROM gone g
 ORDER BY g.tenant, g.type, g.unique_key
ON CONFLICT (id) DO NOTHING
RETURNING id, queue, priority, extract(epoch FROM maturity_at - taskrunner.clock())::float8 AS due_in, type
"""

# Behind which task the successor of this id waits, and as what; or, without a type, which one has taken it over, unless
# it has come meanwhile. By idempotency_key_successor.
FOLLOW = """
SELECT k.task_id, t.type, t.successor ->> 'queue' AS queue, t.tenant, (t.successor ->> 'priority')::int AS priority,
       t.successor -> 'payload' AS payload, (t.successor ->> 'maturity_at')::timestamptz AS maturity_at,
       (t.successor ->> 'created_at')::timestamptz AS created_at, t.successor -> 'meta' AS meta
  FROM taskrunner.idempotency_key k
  LEFT JOIN taskrunner.task t ON t.id = k.task_id AND t.successor ->> 'id' = %(id)s::uuid::text
 WHERE k.key = 'successor ' || %(id)s::uuid AND starts_with(k.key, 'successor ')
"""

# Take a successor back that has not come yet: it ends as cancelled, the task that it waits behind goes on.
WITHDRAW = """
WITH locked AS MATERIALIZED (
    SELECT t.id, t.tenant, t.type, t.unique_key, t.successor AS work
      FROM taskrunner.idempotency_key k JOIN taskrunner.task t ON t.id = k.task_id
     WHERE k.key = 'successor ' || %(id)s::uuid AND starts_with(k.key, 'successor ')
       AND t.successor ->> 'id' = %(id)s::uuid::text
       FOR UPDATE OF t
), left_alone AS (
    UPDATE taskrunner.task t SET successor = NULL FROM locked l WHERE t.id = l.id
)
INSERT INTO taskrunner.task_history (id, finished_at, maturity_at, created_at, claim_no, priority, tries, crashes,
       max_retries, tenant, queue, type, state, unique_key, payload, meta, errors)
SELECT (l.work ->> 'id')::uuid, taskrunner.clock(), (l.work ->> 'maturity_at')::timestamptz,
       (l.work ->> 'created_at')::timestamptz, 0, (l.work ->> 'priority')::int, 0, 0, (l.work ->> 'max_retries')::int,
       l.tenant, l.work ->> 'queue', l.type, 'cancelled', l.unique_key, l.work -> 'payload', l.work -> 'meta', '[]'
  FROM locked l
RETURNING id, tenant, queue, type
"""

# The live task of a key.
KEYED = """
SELECT t.id FROM taskrunner.task t
 WHERE t.tenant = %(tenant)s AND t.unique_key = %(unique_key)s AND t.type = ANY(%(types)s::text[])
 LIMIT 1
"""
