"""What a task does once, in SQL: look whether a key is done, and keep what came of it, under the fence of the claim."""

# Before `fn` is called: does the claim hold, is the key done, with which value? By the primary keys of both tables.
KEPT = """
SELECT EXISTS (SELECT FROM taskrunner.task t
                WHERE t.id = %(id)s AND t.claim_no = %(claim_no)s AND t.runner_id = %(runner_id)s
                  AND t.state NOT IN ('pending', 'blocked')) AS ours,
       (SELECT e.value::text FROM taskrunner.effect e WHERE e.task_id = %(id)s AND e.key = %(key)s
         ORDER BY e.claim_no LIMIT 1) AS value
"""

# After it. The row is locked, so that no rescue comes between the look at the fence and the commit: whoever claims the
# task next sees the key. SKIP LOCKED: a lock of somebody else's holds up this key alone, the caller asks again.
# A repeat after a lost reply meets its own row, of the same claim: that is as good as stored.
KEEP = """
WITH held AS MATERIALIZED (
    SELECT t.id, t.tenant FROM taskrunner.task t
     WHERE t.id = %(id)s AND t.claim_no = %(claim_no)s AND t.runner_id = %(runner_id)s
       AND t.state NOT IN ('pending', 'blocked')
       FOR SHARE SKIP LOCKED
), kept AS (
    INSERT INTO taskrunner.effect (task_id, key, tenant, value, claim_no, done_at)
    SELECT h.id, %(key)s, h.tenant, %(value)s::text::jsonb, %(claim_no)s, taskrunner.clock() FROM held h
    ON CONFLICT DO NOTHING
)
SELECT h.id FROM held h
"""

# Inside the task's own session: without a lock, or nobody could rescue the task of a runner that is frozen meanwhile.
# The finish, in the same transaction, looks at the fence for all that is in it.
KEEP_IN_SESSION = """
INSERT INTO taskrunner.effect (task_id, key, tenant, value, claim_no, done_at)
SELECT t.id, %(key)s, t.tenant, %(value)s::text::jsonb, %(claim_no)s, taskrunner.clock()
  FROM taskrunner.task t
 WHERE t.id = %(id)s AND t.claim_no = %(claim_no)s AND t.runner_id = %(runner_id)s
   AND t.state NOT IN ('pending', 'blocked')
ON CONFLICT DO NOTHING
RETURNING task_id
"""
