"""What makes a queue fair, in SQL."""

SET_FAIR = """
INSERT INTO taskrunner.queue_settings AS q (queue, fair) VALUES (%(queue)s, %(fair)s)
ON CONFLICT (queue) DO UPDATE SET fair = EXCLUDED.fair
RETURNING pg_current_xact_id()::text::bigint
"""

# Rows in any state, by the primary key: those that run come back. Rows that are locked are about to leave or to run.
# While a queue is ordinary, `fair_tenant` does no harm: whoever makes it ordinary leaves the rows alone.
MOVE = """
WITH batch AS MATERIALIZED (
    SELECT t.id FROM taskrunner.task t WHERE t.id > %(after)s ORDER BY t.id LIMIT %(room)s
), locked AS MATERIALIZED (
    SELECT t.id FROM taskrunner.task t
     WHERE t.id = ANY(ARRAY(SELECT b.id FROM batch b)) AND t.queue = %(queue)s AND t.fair_tenant IS NULL
       FOR UPDATE SKIP LOCKED
), moved AS (
    UPDATE taskrunner.task t SET fair_tenant = t.tenant
     WHERE t.id = ANY(ARRAY(SELECT l.id FROM locked l))
    RETURNING t.id
)
SELECT (SELECT count(*) FROM moved m), (SELECT b.id FROM batch b ORDER BY b.id DESC LIMIT 1)
"""

# Whoever wrote a task before the queue was seen to be fair had a smaller number, and has ended.
SETTLED = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint > %(number)s"

WEIGH = """
INSERT INTO taskrunner.queue_settings AS q (queue, weights)
VALUES (%(queue)s, CASE WHEN %(weight)s = 1 THEN '{}' ELSE jsonb_build_object(%(tenant)s::text, %(weight)s::int) END)
ON CONFLICT (queue) DO UPDATE SET weights = q.weights - %(tenant)s::text || EXCLUDED.weights
RETURNING q.queue
"""
