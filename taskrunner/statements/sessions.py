"""Parts of statements about other sessions: what any login may know of them, and what only some are told.

Without the rights of `pg_read_all_stats` (in `pg_monitor`), `pg_stat_activity` tells of others' sessions the database,
the login, the application and how far back they reach; `backend_type`, `xact_start` and `state` are NULL.
"""

# Clients' sessions of the whole server, as `a`. The launcher of logical replication has a login and no database, as
# a physical WAL sender, for which there are slots of their own.
CLIENT = """(a.usesysid IS NOT NULL AND a.datid IS NOT NULL
           AND coalesce(a.backend_type, 'client backend') = 'client backend')"""

# Whether there is nobody in this database of whom this login is not told since when he has been at it.
SEES_ALL = """
SELECT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')
    OR NOT EXISTS (SELECT FROM pg_stat_activity a
                    WHERE a.datname = current_database() AND NOT pg_has_role(current_user, a.usesysid, 'USAGE'))
"""
