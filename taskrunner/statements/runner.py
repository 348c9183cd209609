"""Runners and their leases in SQL: join, beat, leave, and the rescue of what the dead have left."""

from taskrunner.statements import cycle
from taskrunner.statements.successor import TAKES_OVER

JOIN = """
INSERT INTO taskrunner.runner (id, kind, host, pid, queues, types, slots, version, started_at, lease_until)
VALUES (%(id)s, %(kind)s, %(host)s, %(pid)s, %(queues)s::text[], %(types)s::text[], %(slots)s, %(version)s,
        taskrunner.clock(), taskrunner.clock() + %(lease)s)
ON CONFLICT (id) DO NOTHING
RETURNING id
"""

# One statement for all children of a supervisor. A lease that has ended is never revived: somebody may be
# rescuing its tasks this moment; who is not returned rejoins under a new id. The clock stands still while a statement
# waits for a row that a rescuer has locked, so what that took is added: the recheck is by the time after the wait.
# A row without an id says that somebody's lease has ended: who beats need not ask for that beside it.
BEAT = """
WITH beaten AS (
    UPDATE taskrunner.runner r
       SET lease_until = taskrunner.clock() + %(lease)s, running = n.running, strays = n.strays
      FROM unnest(%(ids)s::uuid[], %(runnings)s::int[], %(strays)s::int[]) AS n(id, running, strays)
     WHERE r.id = n.id AND r.lease_until > taskrunner.clock() + (clock_timestamp() - now())
    RETURNING r.id
)
SELECT b.id FROM beaten b
UNION ALL
SELECT NULL WHERE EXISTS (SELECT FROM taskrunner.runner r WHERE r.lease_until < taskrunner.clock())
"""

# End a lease now: its process is known to be dead, or leaves. Rescue does the rest.
END_LEASE = """
UPDATE taskrunner.runner r SET lease_until = taskrunner.clock() - interval '1 microsecond'
 WHERE r.id = ANY(%(ids)s::uuid[]) AND r.lease_until > taskrunner.clock()
RETURNING r.id
"""

# What a dead process's flight recorder says had started. Rows that somebody has locked are left out, as by RESCUE: one
# of them must not hold up the rescue of the others.
MARK_STARTED_OF = """
WITH locked AS MATERIALIZED (
    SELECT t.id FROM taskrunner.task t
      JOIN unnest(%(ids)s::uuid[], %(claim_nos)s::bigint[]) AS m(id, claim_no) ON m.id = t.id
     WHERE t.claim_no = m.claim_no AND t.runner_id = %(runner_id)s AND t.state = 'running' AND t.started_at IS NULL
     ORDER BY t.id FOR UPDATE OF t SKIP LOCKED
)
UPDATE taskrunner.task t SET started_at = taskrunner.clock() FROM locked l WHERE t.id = l.id
RETURNING t.id
"""

# Whether there is anything to rescue, in one statement without a transaction: it is asked all the time.
ANY_EXPIRED = "SELECT EXISTS (SELECT FROM taskrunner.runner r WHERE r.lease_until < taskrunner.clock())"

# The next runner whose lease has ended, locked so that one rescuer has it; the lock rechecks the lease.
EXPIRED = """
SELECT r.id FROM taskrunner.runner r
 WHERE r.lease_until < taskrunner.clock() AND NOT r.id = ANY(%(seen)s::uuid[])
 ORDER BY r.lease_until LIMIT 1
   FOR UPDATE SKIP LOCKED
"""

# Runner ids that running tasks name though no such runner exists: a skip scan over task_running.
ORPHANED = """
WITH RECURSIVE step(runner_id) AS (
    (SELECT t.runner_id FROM taskrunner.task t WHERE t.state = 'running' ORDER BY t.runner_id LIMIT 1)
    UNION ALL
    SELECT n.runner_id FROM step s CROSS JOIN LATERAL (
           SELECT t.runner_id FROM taskrunner.task t
            WHERE t.state = 'running' AND t.runner_id > s.runner_id ORDER BY t.runner_id LIMIT 1) n
)
SELECT s.runner_id FROM step s
 WHERE s.runner_id IS NOT NULL AND NOT EXISTS (SELECT FROM taskrunner.runner r WHERE r.id = s.runner_id)
"""

# One rescuer a runner id, until it commits. A row of the runner's is not always there to be locked, and two who take
# what the other one has not locked yet would each judge by half of the tasks: the suspect here, the innocent there.
TRY_ALONE = "SELECT pg_try_advisory_xact_lock(hashtextextended('taskrunner.rescue ' || %(runner_id)s::uuid, 0))"
ALONE = "SELECT pg_advisory_xact_lock(hashtextextended('taskrunner.rescue ' || %(runner_id)s::uuid, 0)) IS NULL AS held"

# Whom to blame: a runner runs at most one suspect (crashes ≥ 1) at a time, so if one had started, it alone
# is charged; else each task that had started. Claims never started are not charged.
# Rows that somebody has locked are left for the next round: the runner's row stays as long as a task names it. So is
# what dies here and has children or a successor (`special`): OVERDUE and `ending.END` bury it, in a transaction of its
# own, because a lock on a child must not hold up the rescue of the others.
RESCUE = (
    """
WITH locked AS MATERIALIZED (
    SELECT t.id, t.queue, t.crashes, t.started_at, t.has_children OR t.successor IS NOT NULL AS special,
           t.successor IS NOT NULL AS succeeded
      FROM taskrunner.task t
     WHERE t.runner_id = %(runner_id)s AND t.state = 'running'
     ORDER BY t.id FOR UPDATE SKIP LOCKED
), charged AS MATERIALIZED (
    SELECT l.id, l.queue, l.crashes + 1 AS crashes, l.special FROM locked l
     WHERE l.started_at IS NOT NULL
       AND (l.crashes > 0 OR NOT EXISTS (SELECT FROM locked s WHERE s.crashes > 0 AND s.started_at IS NOT NULL))
), gone AS (
    DELETE FROM taskrunner.task t USING charged c
     WHERE t.id = c.id AND c.crashes >= %(crash_limit)s AND NOT t.has_children AND t.successor IS NULL
    RETURNING t.*
), ended AS (
    INSERT INTO taskrunner.dead_letter (id, finished_at, started_at, maturity_at, created_at, claim_no, run_seconds,
           priority, tries, crashes, max_retries, tenant, queue, type, runner_id, unique_key, requeued_from,
           schedule_id, tick_at, payload, meta, errors, progress)
    SELECT g.id, taskrunner.clock(), g.started_at, g.maturity_at, g.created_at, g.claim_no,
           extract(epoch FROM taskrunner.clock() - g.started_at)::float8, g.priority, g.tries, g.crashes + 1,
           g.max_retries, g.tenant, g.queue, g.type, g.runner_id, g.unique_key, g.requeued_from, g.schedule_id,
           g.tick_at, g.payload, g.meta,
           g.errors || jsonb_build_object('at', taskrunner.clock(), 'runner', g.runner_id, 'traceback', NULL,
               'message', 'its runner died ' || (g.crashes + 1) || ' times'),
           g.progress
      FROM gone g
     WHERE """
    + cycle.TOLD
    + cycle.OVERWRITTEN
    + """
    RETURNING id, tenant, queue, type, 'dead' AS outcome, coalesce(run_seconds, 0) AS run_seconds,
              greatest(extract(epoch FROM started_at - maturity_at), 0)::float8 AS wait_seconds
), forgotten AS (
    DELETE FROM taskrunner.effect f
     WHERE f.task_id = ANY(ARRAY(
           SELECT l.id FROM locked l LEFT JOIN charged c ON c.id = l.id
            WHERE l.succeeded AND coalesce(c.crashes, 0) < %(crash_limit)s)::uuid[])
), returned AS (
    UPDATE taskrunner.task t
       SET state = 'pending', runner_id = NULL, claimed_at = NULL, started_at = NULL, deadline_at = NULL,
           progress = NULL, crashes = coalesce(c.crashes, l.crashes),
           tries = CASE WHEN t.successor IS NULL THEN t.tries ELSE 0 END,
           maturity_at = CASE WHEN t.successor IS NULL THEN t.maturity_at
                              ELSE (t.successor ->> 'maturity_at')::timestamptz END,
       """
    + TAKES_OVER
    + """,
           errors = CASE WHEN c.id IS NULL THEN t.errors ELSE t.errors || jsonb_build_object(
               'at', taskrunner.clock(), 'runner', t.runner_id, 'traceback', NULL, 'message', 'its runner died') END
      FROM locked l LEFT JOIN charged c ON c.id = l.id
     WHERE t.id = l.id AND coalesce(c.crashes, 0) < %(crash_limit)s
    RETURNING t.id, t.queue, t.priority, c.id IS NOT NULL AS charged,
              extract(epoch FROM t.maturity_at - taskrunner.clock())::float8 AS due_in
), """
    + cycle.COUNTED
    + """
SELECT r.id, r.queue, r.priority, r.due_in, CASE WHEN r.charged THEN 'charged' ELSE 'released' END AS verdict
  FROM returned r
UNION ALL
SELECT e.id, e.queue, 0, NULL, 'dead' FROM ended e
UNION ALL
SELECT c.id, c.queue, 0, NULL, 'special' FROM charged c WHERE c.crashes >= %(crash_limit)s AND c.special
"""
)

# What RESCUE has called special, still held by that dead runner: what its ending is made of.
OVERDUE = """
SELECT t.id, t.claim_no, t.crashes + 1 AS crashes,
       greatest(extract(epoch FROM taskrunner.clock() - t.started_at), 0)::float8 AS age
  FROM taskrunner.task t
 WHERE t.id = ANY(%(ids)s::uuid[]) AND t.runner_id = %(runner_id)s AND t.state = 'running'
 ORDER BY t.id FOR UPDATE OF t SKIP LOCKED
"""

# A runner's row goes only when no task names it any more.
LEAVE = """
DELETE FROM taskrunner.runner r
 WHERE r.id = ANY(%(ids)s::uuid[])
   AND NOT EXISTS (SELECT FROM taskrunner.task t WHERE t.runner_id = r.id AND t.state = 'running')
RETURNING r.id
"""
