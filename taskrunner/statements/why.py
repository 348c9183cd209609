"""Why a task is not running, in SQL: looks at one task and at what is around it, each by an index, each bounded.

Nothing is locked: whoever asks must not keep the task from being claimed.
"""

# By the primary key.
TASK = """
SELECT t.id, t.type, t.queue, t.tenant, t.state, t.priority, t.tries, t.crashes, t.max_retries, t.maturity_at,
       extract(epoch FROM t.maturity_at - taskrunner.clock())::float8 AS due_in,
       extract(epoch FROM taskrunner.clock() - t.claimed_at)::float8 AS claimed_ago,
       extract(epoch FROM taskrunner.clock() - t.started_at)::float8 AS started_ago,
       extract(epoch FROM t.deadline_at - taskrunner.clock())::float8 AS deadline_in,
       extract(epoch FROM taskrunner.clock() - t.cancel_requested_at)::float8 AS cancel_ago,
       t.runner_id, t.tick_at, t.waits_for, t.progress, t.fair_tenant IS NOT NULL AS fair,
       (t.successor ->> 'id')::uuid AS successor_id, t.errors -> -1 ->> 'message' AS last_error
  FROM taskrunner.task t
 WHERE t.id = %(id)s
"""

# What this login may ask: tenants are told neither of hosts nor how busy others keep the runners.
MAY = """
SELECT has_column_privilege('taskrunner.runner', 'slots', 'SELECT') AS runners,
       has_column_privilege('taskrunner.queue_settings', 'paused_at', 'SELECT') AS settings
"""

# The transaction that has the row locked says so in the row, while it is open; any login may read pg_locks. Several
# that share the row are a multixact there, a number of another kind, which may be that of anybody's transaction: only
# who has locked rows of this table is believed. A claim has a row locked for milliseconds; since when others are at
# it, not every login is told.
LOCKER = """
SELECT l.pid, coalesce(a.application_name, '') AS application,
       extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared))::float8 AS open_seconds
  FROM taskrunner.task t
  JOIN pg_locks l ON l.locktype = 'transactionid' AND l.transactionid = t.xmax AND l.granted
  LEFT JOIN pg_stat_activity a ON a.pid = l.pid
  LEFT JOIN pg_prepared_xacts p ON l.pid IS NULL AND p.transaction = l.transactionid
 WHERE t.id = %(id)s
   AND EXISTS (SELECT FROM pg_locks r
                WHERE r.virtualtransaction = l.virtualtransaction AND r.pid IS NOT DISTINCT FROM l.pid
                  AND r.locktype = 'relation' AND r.relation = 'taskrunner.task'::regclass
                  AND r.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
                  AND r.mode <> 'AccessShareLock' AND r.granted)
   AND coalesce(clock_timestamp() - coalesce(a.xact_start, p.prepared), taskrunner.clock() - t.maturity_at)
       > %(patience)s::interval
 LIMIT 1
"""

QUEUE = "SELECT q.paused, q.fair FROM taskrunner.queue_settings q WHERE q.queue = %(queue)s"

PAUSED_FOR = """
SELECT extract(epoch FROM taskrunner.clock() - q.paused_at)::float8 AS seconds
  FROM taskrunner.queue_settings q WHERE q.queue = %(queue)s
"""

# What anybody may know of the runners that are alive.
SERVING = """
SELECT r.queues, r.types FROM taskrunner.runner r
 WHERE r.lease_until > taskrunner.clock() AND r.kind = 'runner'
"""

# A runner tells its load every five seconds; what it holds is known now. By task_running, no more than it has slots.
BUSY = """
SELECT r.host, r.pid, r.slots,
       greatest(r.running, (SELECT count(*) FROM (SELECT FROM taskrunner.task t
                                                   WHERE t.runner_id = r.id AND t.state = 'running'
                                                   LIMIT r.slots) n)) AS running,
       r.queues, r.types
  FROM taskrunner.runner r
 WHERE r.lease_until > taskrunner.clock() AND r.kind = 'runner'
 ORDER BY r.host, r.pid
"""

RUNNER = """
SELECT r.host, r.pid, extract(epoch FROM r.lease_until - taskrunner.clock())::float8 AS lease_in
  FROM taskrunner.runner r WHERE r.id = %(runner_id)s
"""

ANYBODY = "SELECT EXISTS (SELECT FROM taskrunner.runner r WHERE r.lease_until > taskrunner.clock())"

# What is claimed before a task: of its queue and the types that the same runners know, due, and more urgent or earlier.
# By task_claim, two ranges of it for each type; of what is not due yet, a bounded number is looked at.
AHEAD = """
SELECT count(*) FROM (
    SELECT FROM unnest(%(types)s::text[]) AS w(type)
     CROSS JOIN LATERAL (
           (SELECT t.maturity_at FROM taskrunner.task t
             WHERE t.state = 'pending' AND t.queue = %(queue)s AND t.type = w.type AND t.priority > %(priority)s
             LIMIT %(room)s)
           UNION ALL
           (SELECT t.maturity_at FROM taskrunner.task t
             WHERE t.state = 'pending' AND t.queue = %(queue)s AND t.type = w.type AND t.priority = %(priority)s
               AND (t.maturity_at, t.id) < (%(maturity_at)s::timestamptz, %(id)s::uuid)
             LIMIT %(room)s)) n
     WHERE n.maturity_at <= taskrunner.clock()
     LIMIT %(room)s) x
"""

# The same within a fair queue: of its own tenant. By task_fair.
AHEAD_OF_TENANT = """
SELECT count(*) FROM (
    SELECT FROM unnest(%(types)s::text[]) AS w(type)
     CROSS JOIN LATERAL (
           (SELECT t.maturity_at FROM taskrunner.task t
             WHERE t.state = 'pending' AND t.queue = %(queue)s AND t.type = w.type AND t.fair_tenant = %(tenant)s
               AND t.priority > %(priority)s
             LIMIT %(room)s)
           UNION ALL
           (SELECT t.maturity_at FROM taskrunner.task t
             WHERE t.state = 'pending' AND t.queue = %(queue)s AND t.type = w.type AND t.fair_tenant = %(tenant)s
               AND t.priority = %(priority)s AND (t.maturity_at, t.id) < (%(maturity_at)s::timestamptz, %(id)s::uuid)
             LIMIT %(room)s)) n
     WHERE n.maturity_at <= taskrunner.clock()
     LIMIT %(room)s) x
"""

# The tenants with pending tasks of a type in a fair queue: a skip scan over task_fair, at most a hundred steps.
TENANTS = """
WITH RECURSIVE step(tenant, place) AS (
    (SELECT t.fair_tenant, 1 FROM taskrunner.task t
      WHERE t.state = 'pending' AND t.fair_tenant IS NOT NULL AND t.queue = %(queue)s AND t.type = %(type)s
      ORDER BY t.fair_tenant LIMIT 1)
    UNION ALL
    SELECT n.fair_tenant, s.place + 1 FROM step s CROSS JOIN LATERAL (
           SELECT t.fair_tenant FROM taskrunner.task t
            WHERE t.state = 'pending' AND t.fair_tenant > s.tenant AND t.queue = %(queue)s AND t.type = %(type)s
            ORDER BY t.fair_tenant LIMIT 1) n
     WHERE s.place < 100
)
SELECT count(*) FROM step
"""

# Of the runners that could run the task, those that have one in hand that has seen a runner die, and all. By
# task_running, which is small.
SUSPECTS = """
SELECT count(*) FILTER (WHERE EXISTS (SELECT FROM taskrunner.task t WHERE t.state = 'running' AND t.runner_id = r.id
                                         AND t.crashes > 0)) AS taken, count(*) AS able
  FROM taskrunner.runner r
 WHERE r.lease_until > taskrunner.clock() AND r.kind = 'runner'
   AND %(queue)s = ANY(r.queues) AND %(type)s = ANY(r.types)
"""

# The parents that a blocked task still waits for, or that will never succeed; by dependency_child and primary keys.
PARENTS = """
SELECT d.parent_id, d.on_failure,
       coalesce(t.state, CASE WHEN l.id IS NOT NULL THEN 'dead' END) AS state,
       coalesce(t.type, l.type, '') AS type, l.requeued_as
  FROM taskrunner.dependency d
  LEFT JOIN taskrunner.task t ON t.id = d.parent_id
  LEFT JOIN taskrunner.dead_letter l ON l.id = d.parent_id
 WHERE d.child_id = %(id)s AND (t.id IS NOT NULL OR l.id IS NOT NULL)
 ORDER BY l.id IS NULL, d.parent_id LIMIT 50
"""

# Ids that begin alike, by the primary keys; history's in each partition.
NEAR = """
(SELECT t.id, t.type, t.state FROM taskrunner.task t WHERE t.id BETWEEN %(low)s AND %(high)s LIMIT 200)
UNION ALL
(SELECT h.id, h.type, h.state FROM taskrunner.task_history h WHERE h.id BETWEEN %(low)s AND %(high)s LIMIT 200)
UNION ALL
(SELECT l.id, l.type, 'dead' FROM taskrunner.dead_letter l WHERE l.id BETWEEN %(low)s AND %(high)s LIMIT 200)
"""

SCHEDULE_OF = "SELECT s.name FROM taskrunner.schedule s WHERE s.id = %(id)s"
