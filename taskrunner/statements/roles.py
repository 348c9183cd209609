"""The roles of a database in SQL, and which tenant a login is mapped to.

The script is one for all: `taskrunner migrate --roles` runs it, `--sql` prints it for an administrator. It may be
repeated, in several databases at once; what is there already is left alone.
"""

# `$prefix$` is the word that the roles' names begin with: lower-case letters, digits, underscores.
# Roles belong to the whole server. Those of another database are not taken: its owners would own these tables too.
_ROLES = """
BEGIN;
SET LOCAL search_path = pg_catalog;
SET LOCAL lock_timeout = '2s';

DO $script$
DECLARE
    prefix constant text := '$prefix$';
    kind text;
    name text;
    thing record;
BEGIN
    PERFORM pg_advisory_xact_lock(7463265002);
    FOREACH kind IN ARRAY ARRAY['owner', 'worker', 'user', 'reader', 'tenant'] LOOP
        name := prefix || '_' || kind;
        IF to_regrole(name) IS NULL THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;  -- somebody else has made it a moment ago
            END;
        ELSIF EXISTS (SELECT FROM pg_shdepend d
                       WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = to_regrole(name)
                         AND d.dbid NOT IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))) THEN
            RAISE EXCEPTION 'the role % belongs to another database of this server', name USING ERRCODE = 'TR001';
        END IF;
    END LOOP;

    -- The owner's: whoever owns something here becomes a member, and then hands it over.
    name := prefix || '_owner';
    BEGIN
        EXECUTE format('GRANT CREATE ON DATABASE %I TO %I', current_database(), name);
    EXCEPTION WHEN insufficient_privilege THEN
        NULL;  -- then the schema stays with who made it
    END;
    EXECUTE format('GRANT USAGE, CREATE ON SCHEMA taskrunner TO %I', name);
    FOR thing IN
        SELECT r.rolname FROM pg_roles r
         WHERE NOT r.rolsuper AND r.rolname <> name AND NOT pg_has_role(r.oid, to_regrole(name), 'USAGE')
           AND (r.oid IN (SELECT c.relowner FROM pg_class c WHERE c.relnamespace = 'taskrunner'::regnamespace)
             OR r.oid = (SELECT n.nspowner FROM pg_namespace n WHERE n.nspname = 'taskrunner'))
    LOOP
        EXECUTE format('GRANT %I TO %I', name, thing.rolname)
             || CASE WHEN current_setting('server_version_num')::int >= 160000 THEN ' WITH INHERIT TRUE, SET TRUE'
                     ELSE '' END;
        IF NOT pg_has_role(thing.rolname, name, 'USAGE') THEN
            RAISE EXCEPTION 'the role % is NOINHERIT', thing.rolname USING ERRCODE = 'TR002';
        END IF;
    END LOOP;
    FOR thing IN
        SELECT format('ALTER TABLE taskrunner.%I OWNER TO %I', c.relname, name) AS command FROM pg_class c
         WHERE c.relnamespace = 'taskrunner'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')
           AND c.relowner <> to_regrole(name)
        UNION ALL
        SELECT format('ALTER ROUTINE %s OWNER TO %I', p.oid::regprocedure, name) FROM pg_proc p
         WHERE p.pronamespace = 'taskrunner'::regnamespace AND p.proowner <> to_regrole(name)
        UNION ALL
        SELECT format('ALTER SCHEMA taskrunner OWNER TO %I', name) FROM pg_namespace n
         WHERE n.nspname = 'taskrunner' AND n.nspowner <> to_regrole(name)
           AND has_database_privilege(name, current_database(), 'CREATE')
    LOOP
        EXECUTE thing.command;
    END LOOP;

    -- Runners and schedulers: every tenant's rows; to a partition nobody is let but through its parent.
    FOR thing IN
        SELECT c.relname AS name FROM pg_class c
         WHERE c.relnamespace = 'taskrunner'::regnamespace AND c.relkind IN ('r', 'p') AND c.relrowsecurity
           AND NOT c.relispartition AND c.relname <> 'tenant_role'
    LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON taskrunner.%I TO %I', thing.name, prefix || '_worker');
        EXECUTE format('GRANT SELECT ON taskrunner.%I TO %I, %I, %I', thing.name, prefix || '_user',
                       prefix || '_reader', prefix || '_tenant');
        IF NOT EXISTS (SELECT FROM pg_policy o WHERE o.polrelid = format('taskrunner.%I', thing.name)::regclass
                          AND o.polname = 'worker'
                          AND o.polroles = ARRAY[to_regrole(prefix || '_worker')::oid]) THEN
            EXECUTE format('DROP POLICY IF EXISTS worker ON taskrunner.%I', thing.name);
            EXECUTE format('CREATE POLICY worker ON taskrunner.%I TO %I USING (true) WITH CHECK (true)',
                           thing.name, prefix || '_worker');
        END IF;
    END LOOP;

    EXECUTE format('CREATE OR REPLACE FUNCTION taskrunner.roles() RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE '
                   'AS %L', format(' SELECT %L ', prefix));
END
$script$;

GRANT USAGE ON SCHEMA taskrunner TO $prefix$_worker, $prefix$_user, $prefix$_reader, $prefix$_tenant;
GRANT SELECT ON taskrunner.schema_version TO $prefix$_worker, $prefix$_user, $prefix$_reader, $prefix$_tenant;
GRANT SELECT, INSERT, UPDATE, DELETE ON taskrunner.runner, taskrunner.queue_settings TO $prefix$_worker;
GRANT SELECT ON taskrunner.runner TO $prefix$_user, $prefix$_reader;
-- Neither hosts, nor how busy others keep the runners, nor the weights, whose keys are the other tenants' names.
GRANT SELECT (kind, queues, types, lease_until) ON taskrunner.runner TO $prefix$_tenant;
GRANT SELECT (queue, paused, fair) ON taskrunner.queue_settings
   TO $prefix$_user, $prefix$_reader, $prefix$_tenant;
-- Neither whose a task is, nor which tick it is, nor what runners write of claims, crashes and errors.
-- An earlier script granted more.
REVOKE UPDATE ON taskrunner.task FROM $prefix$_user, $prefix$_tenant;
GRANT INSERT, DELETE,
      UPDATE (state, maturity_at, priority, tries, max_retries, queue, payload, meta, progress, successor, fair_tenant,
              has_children, awaited, waits_for, cancel_requested_at)
   ON taskrunner.task TO $prefix$_user, $prefix$_tenant;
GRANT INSERT ON taskrunner.task_history TO $prefix$_user, $prefix$_tenant;
GRANT INSERT, UPDATE, DELETE ON taskrunner.dead_letter, taskrunner.dependency, taskrunner.schedule,
      taskrunner.idempotency_key TO $prefix$_user, $prefix$_tenant;
GRANT INSERT, UPDATE ON taskrunner.task_stats TO $prefix$_user, $prefix$_tenant;
GRANT INSERT ON taskrunner.audit TO $prefix$_user, $prefix$_tenant;
-- A requeued task takes its effects along; one that is given other work forgets them.
GRANT UPDATE (task_id), DELETE ON taskrunner.effect TO $prefix$_user, $prefix$_tenant;

COMMIT;
"""


def script(prefix: str) -> str:
    """Return what makes the roles whose names begin with this word, and grants them what they need."""
    return _ROLES.replace("$prefix$", prefix)


# Its function says it: the roles' names are those that `migrate --roles` was last given.
PREFIX = "SELECT taskrunner.roles(), to_regrole(taskrunner.roles() || '_tenant') IS NOT NULL"

# Whether a role is there, and what it has that no tenant's login may have: it would see more than its tenant.
LOGIN = """
SELECT r.rolname::text,
       CASE WHEN r.rolsuper THEN 'is a superuser'
            WHEN r.rolbypassrls THEN 'has BYPASSRLS'
            WHEN pg_has_role(r.oid, c.relowner, 'MEMBER') THEN 'owns the tables'
            WHEN pg_has_role(r.oid, to_regrole(taskrunner.roles() || '_worker'), 'MEMBER')
            THEN 'is a member of ' || taskrunner.roles() || '_worker'
            WHEN pg_has_role(r.oid, to_regrole(taskrunner.roles() || '_user'), 'MEMBER')
              OR pg_has_role(r.oid, to_regrole(taskrunner.roles() || '_reader'), 'MEMBER')
            THEN 'is trusted to say whose tenant it is' END AS unfit
  FROM pg_roles r
 CROSS JOIN pg_class c
 WHERE r.rolname = %(login)s AND c.oid = 'taskrunner.tenant_role'::regclass
"""

MAP = """
INSERT INTO taskrunner.tenant_role AS r (role, tenant) VALUES (%(login)s, %(tenant)s)
ON CONFLICT (role) DO UPDATE SET tenant = EXCLUDED.tenant
RETURNING r.role
"""

UNMAP = "DELETE FROM taskrunner.tenant_role r WHERE r.role = %(login)s RETURNING r.tenant"

# `able`: a member of the group, without which a login reaches no table; a role that was dropped is none.
MAPPED = """
SELECT r.role AS login, r.tenant,
       coalesce(pg_has_role(p.oid, to_regrole(taskrunner.roles() || '_tenant'), 'MEMBER'), false) AS able
  FROM taskrunner.tenant_role r
  LEFT JOIN pg_roles p ON p.rolname = r.role
 ORDER BY r.tenant, r.role
"""

# For this transaction alone. The select list is evaluated from left to right: first what it was before.
BIND = "SELECT current_setting('taskrunner.tenant', true), set_config('taskrunner.tenant', %(tenant)s, true)"

# Whether the task is the tenant's, in whatever table, by their primary keys; also one that waits as a successor.
OWN = """
SELECT EXISTS (SELECT FROM taskrunner.task t WHERE t.id = %(id)s AND t.tenant = %(tenant)s)
    OR EXISTS (SELECT FROM taskrunner.task_history h WHERE h.id = %(id)s AND h.tenant = %(tenant)s)
    OR EXISTS (SELECT FROM taskrunner.dead_letter d WHERE d.id = %(id)s AND d.tenant = %(tenant)s)
    OR EXISTS (SELECT FROM taskrunner.idempotency_key k
                WHERE k.key = 'successor ' || %(id)s::uuid AND starts_with(k.key, 'successor ')
                  AND k.tenant = %(tenant)s)
"""
