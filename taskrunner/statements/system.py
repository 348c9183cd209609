"""What the database says of itself, in SQL: sizes, sessions and how far back vacuum may clean."""

from taskrunner.statements.sessions import CLIENT, SEES_ALL

# Every table with its indexes and TOAST; the partitions of history are one. Estimates, never counts.
SIZES = """
SELECT CASE WHEN p.inhparent IS NULL THEN c.relname ELSE 'task_history' END::text AS name,
       sum(pg_total_relation_size(c.oid))::bigint AS bytes, sum(greatest(c.reltuples, 0))::float8 AS rows,
       sum(coalesce(s.n_dead_tup, 0))::bigint AS dead_rows, count(*) AS parts,
       max(greatest(s.last_autovacuum, s.last_vacuum)) AS vacuumed_at
  FROM pg_class c
  LEFT JOIN pg_inherits p ON p.inhrelid = c.oid
  LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
 WHERE c.relnamespace = 'taskrunner'::regnamespace AND c.relkind = 'r'
 GROUP BY 1
 ORDER BY 2 DESC, 1
"""

# `horizon_age` is of the oldest snapshot that anybody in this database holds; how long a transaction is open is told
# of all only where `sees_all`.
SERVER = (
    """
SELECT current_setting('server_version') AS version, pg_database_size(current_database()) AS bytes,
       (SELECT count(*) FROM pg_stat_activity a WHERE a.datname = current_database()) AS sessions,
       current_setting('max_connections')::int AS most_sessions,
       (SELECT count(*) FROM pg_stat_activity a
         WHERE a.datname = current_database() AND a.application_name LIKE 'taskrunner %%listen%%') AS listeners,
       (SELECT max(age(a.backend_xmin)) FROM pg_stat_activity a WHERE a.datname = current_database())::bigint
           AS horizon_age,
       (SELECT extract(epoch FROM now() - min(a.xact_start))::float8 FROM pg_stat_activity a
         WHERE a.datname = current_database() AND """
    + CLIENT
    + """ AND a.pid <> pg_backend_pid()) AS oldest_transaction_seconds,
       ("""
    + SEES_ALL
    + """) AS sees_all
"""
)
