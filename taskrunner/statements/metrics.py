"""What `/metrics` tells of the whole fleet, beside what the status page reads."""

from __future__ import annotations

from taskrunner.statements.sessions import CLIENT, SEES_ALL
from taskrunner.statements.stats import each

# The last minutes, whose rows still grow. By task_stats_pkey, which begins with the minute.
ENDED = (
    """
SELECT s.minute, s.queue, s.type, s.outcome, sum(s.count)::bigint, sum(s.run_seconds), sum(s.wait_seconds), """
    + each("coalesce(sum(s.run_histogram[#]), 0)::bigint")
    + " AS runs, "
    + each("coalesce(sum(s.wait_histogram[#]), 0)::bigint")
    + """ AS waits
  FROM taskrunner.task_stats s
 WHERE s.minute >= taskrunner.clock() - %(window)s::interval
 GROUP BY s.minute, s.queue, s.type, s.outcome
"""
)

# How the server is: what keeps vacuum from its work, and how full it is. No table is read. The age of a transaction is
# NULL where this login is told only of its own.
SERVER = (
    """
SELECT CASE WHEN ("""
    + SEES_ALL
    + """) THEN coalesce((SELECT extract(epoch FROM max(clock_timestamp() - a.xact_start)) FROM pg_stat_activity a
                           WHERE a.datname = current_database() AND """
    + CLIENT
    + """), 0)::float8 END,
       (SELECT count(*) FROM pg_stat_activity a WHERE """
    + CLIENT
    + """)::int,
       current_setting('max_connections')::int,
       coalesce((SELECT t.n_dead_tup FROM pg_stat_user_tables t
                  WHERE t.relid = 'taskrunner.task'::regclass), 0)::bigint,
       pg_total_relation_size('taskrunner.task')::bigint,
       pg_total_relation_size('taskrunner.dead_letter')::bigint,
       (SELECT coalesce(sum(pg_total_relation_size(p.relid)), 0)
          FROM pg_partition_tree('taskrunner.task_history') p)::bigint,
       (SELECT count(*) FROM pg_partition_tree('taskrunner.task_history') p WHERE p.isleaf)::int
"""
)
