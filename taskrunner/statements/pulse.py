"""Whether anything that people look at has changed, in SQL."""

# A value that differs when something has changed: what runs (every write makes a new xmin; as many rows as there are
# slots, by task_running), the newest task (by the primary key; a client's clock may differ, which costs a look at a
# page), what has ended (task_stats, which the ending statement writes), what people did, what tasks have logged, and
# who is there. Nothing of it grows with the tables.
STAMP = """
SELECT concat_ws(' ',
       (SELECT count(*) || '/' || coalesce(sum(t.xmin::text::bigint), 0) FROM taskrunner.task t
         WHERE t.state = 'running'),
       (SELECT t.id FROM taskrunner.task t ORDER BY t.id DESC LIMIT 1),
       (SELECT max(s.minute) || '/' || sum(s.count) FROM taskrunner.task_stats s
         WHERE s.minute >= date_trunc('minute', taskrunner.clock() - interval '1 minute')),
       (SELECT max(a.id) FROM taskrunner.audit a),
       (SELECT max(l.id) FROM taskrunner.task_log l),
       (SELECT count(*) FROM taskrunner.runner r WHERE r.lease_until > taskrunner.clock()),
       (SELECT count(*) FROM taskrunner.queue_settings q WHERE q.paused)) AS stamp
"""
