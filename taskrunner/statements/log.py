"""What tasks log, in SQL: written in batches, read by the page."""

# In the order in which the lines were written, which the ids then have. The instants are by the database's clock: a
# line comes with its age.
KEEP = """
INSERT INTO taskrunner.task_log (task_id, tenant, claim_no, logged_at, level, message)
SELECT l.task_id, l.tenant, l.claim_no, taskrunner.clock() - l.age * interval '1 second', l.level, l.message
  FROM unnest(%(task_ids)s::uuid[], %(tenants)s::text[], %(claim_nos)s::bigint[], %(ages)s::float8[],
              %(levels)s::text[], %(messages)s::text[])
       WITH ORDINALITY AS l(task_id, tenant, claim_no, age, level, message, place)
 ORDER BY l.place
"""

# By task_log_task, forwards.
LINES = """
SELECT l.id, l.claim_no, l.logged_at, l.level, l.message
  FROM taskrunner.task_log l
 WHERE l.task_id = %(task_id)s AND l.id > %(after)s
 ORDER BY l.id
 LIMIT %(limit)s
"""

# By task_log_task, backwards.
LAST_LINES = """
SELECT l.id, l.claim_no, l.logged_at, l.level, l.message
  FROM taskrunner.task_log l
 WHERE l.task_id = %(task_id)s
 ORDER BY l.id DESC
 LIMIT %(limit)s
"""
