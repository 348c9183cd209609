"""The birth of a task in SQL: the insert, what makes a repeat of it safe, and the word to the runners."""

# How long the statements that follow in this transaction wait for a key that an open transaction holds.
PATIENCE = "SELECT set_config('lock_timeout', %(milliseconds)s, true)"

# Keep the caller's idempotency key, unless it is taken and has not expired.
KEEP_IDEMPOTENCY_KEY = """
INSERT INTO taskrunner.idempotency_key AS k (tenant, type, key, task_id, expires_at)
VALUES (%(tenant)s, %(type)s, %(key)s, %(task_id)s, taskrunner.clock() + %(retention)s)
ON CONFLICT (tenant, type, key) DO UPDATE
   SET task_id = EXCLUDED.task_id, expires_at = EXCLUDED.expires_at
 WHERE k.expires_at < taskrunner.clock() OR k.task_id = EXCLUDED.task_id
RETURNING k.task_id
"""

IDEMPOTENT_TASK = """
SELECT k.task_id FROM taskrunner.idempotency_key k
 WHERE k.tenant = %(tenant)s AND k.type = %(type)s AND k.key = %(key)s
"""

# The same key, kept under an older name of the type.
IDEMPOTENT_BEFORE = """
SELECT k.task_id FROM taskrunner.idempotency_key k
 WHERE k.tenant = %(tenant)s AND k.type = ANY(%(types)s::text[]) AND k.key = %(key)s
   AND k.expires_at >= taskrunner.clock()
 LIMIT 1
"""

# The conflicting task was there first: the idempotency key stands for it from now on.
MOVE_IDEMPOTENCY_KEY = """
UPDATE taskrunner.idempotency_key k SET task_id = %(to_id)s
 WHERE k.tenant = %(tenant)s AND k.type = %(type)s AND k.key = %(key)s AND k.task_id = %(task_id)s
"""

# Nothing was enqueued under it: the key is free for the next one.
FREE_IDEMPOTENCY_KEY = """
DELETE FROM taskrunner.idempotency_key k
 WHERE k.tenant = %(tenant)s AND k.type = %(type)s AND k.key = %(key)s AND k.task_id = %(task_id)s
RETURNING k.task_id
"""

# `fair_tenant` brings a row into the index of the fair claim: only in a fair queue, looked up once a statement.

# A task that is sent for the first time: no row can have its id, a conflict is an error.
# A function, because it takes two statements in one round trip: an INSERT by itself that has lost its client may lie in
# the server's socket until the client's repeat has been run and forgotten, and would make a second task then.
ADD_ONE = """
SELECT taskrunner.add_one(%(id)s, %(tenant)s, %(queue)s, %(type)s, %(priority)s, %(payload)s::jsonb, %(max_retries)s,
                          %(meta)s::jsonb, %(at)s::timestamptz, %(delay)s)
"""

# What such an INSERT looks for if it is late; committed with the repeat, and kept while it may still be on its way.
NOTE_REPEATS = """
INSERT INTO taskrunner.idempotency_key (tenant, type, key, task_id, expires_at)
SELECT n.tenant, n.type, 'repeat ' || n.id, n.id, taskrunner.clock() + interval '1 day'
  FROM unnest(%(ids)s::uuid[], %(tenants)s::text[], %(types)s::text[]) AS n(id, tenant, type)
 ORDER BY n.id
ON CONFLICT DO NOTHING
"""

# In a transaction block whose COMMIT is sent when the reply has come, so that it is never late.
# Many such tasks of one tenant: 3.8 µs of the server a task; what ADD does besides costs 2.6 µs more.
# `places` has each task's place in the short arrays of what its type decides; it is left empty for tasks of one type.
ADD_MANY = """
INSERT INTO taskrunner.task (id, tenant, queue, type, priority, payload, max_retries, maturity_at, created_at,
                             fair_tenant)
SELECT n.id, %(tenant)s, (%(queues)s::text[])[coalesce(n.place, 1)], (%(types)s::text[])[coalesce(n.place, 1)],
       (%(priorities)s::int[])[coalesce(n.place, 1)], n.payload::jsonb, (%(max_retries)s::int[])[coalesce(n.place, 1)],
       taskrunner.clock() + make_interval(secs => %(spacing)s * (n.number - 1)), taskrunner.clock(),
       (ARRAY(SELECT CASE WHEN q.fair THEN %(tenant)s::text END
                FROM unnest(%(queues)s::text[]) WITH ORDINALITY AS k(queue, place)
                LEFT JOIN taskrunner.queue_settings q ON q.queue = k.queue ORDER BY k.place))[coalesce(n.place, 1)]
  FROM unnest(%(ids)s::uuid[], %(payloads)s::text[], %(places)s::int[]) WITH ORDINALITY
       AS n(id, payload, place, number)
"""

# DO NOTHING covers both arbiters: the id (a repeat) and the unique key (a live task of the same key).
# In one order for all: two batches that insert the same keys crosswise would wait for each other.
# A live row under an old name of the type counts as the type; %(aliases)s is {"name": ["old name", …]}.
ADD = """
INSERT INTO taskrunner.task (id, tenant, queue, type, priority, payload, max_retries, unique_key, meta,
                             requeued_from, schedule_id, tick_at, maturity_at, created_at, fair_tenant)
SELECT n.id, n.tenant, n.queue, n.type, n.priority, n.payload::jsonb, n.max_retries, n.unique_key, n.meta::jsonb,
       n.requeued_from, n.schedule_id, n.tick_at,
       coalesce(n.at, taskrunner.clock() + make_interval(secs => n.delay)), taskrunner.clock(),
       CASE WHEN n.queue = ANY(ARRAY(SELECT q.queue FROM taskrunner.queue_settings q WHERE q.fair)) THEN n.tenant END
  FROM unnest(%(ids)s::uuid[], %(tenants)s::text[], %(queues)s::text[], %(types)s::text[], %(priorities)s::int[],
              %(payloads)s::text[], %(max_retries)s::int[], %(unique_keys)s::text[], %(metas)s::text[],
              %(requeued_froms)s::uuid[], %(schedule_ids)s::uuid[], %(tick_ats)s::timestamptz[],
              %(ats)s::timestamptz[], %(delays)s::float8[])
       AS n(id, tenant, queue, type, priority, payload, max_retries, unique_key, meta,
            requeued_from, schedule_id, tick_at, at, delay)
 WHERE n.unique_key IS NULL OR %(aliases)s::jsonb -> n.type IS NULL OR NOT EXISTS (
       SELECT FROM taskrunner.task old
        WHERE old.tenant = n.tenant AND old.unique_key = n.unique_key
          AND old.type IN (SELECT jsonb_array_elements_text(%(aliases)s::jsonb -> n.type)))
 ORDER BY n.tenant, n.type, n.unique_key, n.schedule_id, n.tick_at, n.id
ON CONFLICT DO NOTHING
RETURNING id, queue, priority, extract(epoch FROM maturity_at - taskrunner.clock())::float8 AS due_in, type
"""

# Of freshly inserted ids, those that had ended already: a repeat of an enqueue whose first reply was lost.
# It must be a statement of its own, after ADD: one snapshot for both would miss a task that ends in between.
# UUIDv7 ids tell the day they were made, so that only the partitions since then are looked into.
ALREADY_ENDED = """
SELECT h.id FROM taskrunner.task_history h
 WHERE h.id = ANY(%(ids)s::uuid[]) AND h.finished_at >= %(since)s
UNION ALL
SELECT d.id FROM taskrunner.dead_letter d WHERE d.id = ANY(%(ids)s::uuid[])
"""

TAKE_BACK = "DELETE FROM taskrunner.task t WHERE t.id = ANY(%(ids)s::uuid[]) RETURNING t.id"

# Who stands in the way of the tasks that ADD did not insert: the same id, the live task of the same key or tick.
# Never another tenant's task: nobody would know the difference from his own. Its id is refused then.
INCUMBENT = """
SELECT n.id, coalesce(same.id, keyed.id, ticked.id, ended.id, dead.id)
  FROM unnest(%(ids)s::uuid[], %(tenants)s::text[], %(types)s::text[], %(unique_keys)s::text[],
              %(schedule_ids)s::uuid[], %(tick_ats)s::timestamptz[])
       AS n(id, tenant, type, unique_key, schedule_id, tick_at)
  LEFT JOIN taskrunner.task same ON same.id = n.id AND same.tenant = n.tenant
  LEFT JOIN LATERAL (
       SELECT t.id FROM taskrunner.task t
        WHERE t.tenant = n.tenant AND t.unique_key = n.unique_key
          AND (t.type = n.type OR t.type IN (SELECT jsonb_array_elements_text(%(aliases)s::jsonb -> n.type)))
        LIMIT 1) keyed ON n.unique_key IS NOT NULL
  LEFT JOIN taskrunner.task ticked ON ticked.schedule_id = n.schedule_id AND ticked.tick_at = n.tick_at
  LEFT JOIN LATERAL (
       SELECT h.id FROM taskrunner.task_history h
        WHERE h.id = n.id AND h.finished_at >= %(since)s AND h.tenant = n.tenant LIMIT 1) ended ON true
  LEFT JOIN taskrunner.dead_letter dead ON dead.id = n.id AND dead.tenant = n.tenant
"""

# Tell the runners: queue, priority and the seconds until maturity by the database's clock. Sent at commit.
NOTIFY = """
SELECT pg_notify('taskrunner', n.message) FROM unnest(%(messages)s::text[]) AS n(message)
"""

# The same in a transaction of its own. A NOTIFY takes a transaction id, so its commit would wait for the disk as any
# other: a fifth of a millisecond, for what no crash could lose that the runners' own looks do not find.
WORD = """
SELECT pg_notify('taskrunner', n.message), set_config('synchronous_commit', 'off', true)
  FROM unnest(%(messages)s::text[]) AS n(message)
"""
