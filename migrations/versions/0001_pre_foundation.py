"""The foundation: every table, and the functions that statements lean on.

`pre_` in a file's name: run before the new code starts; `post_`: after the last old process has gone.

Revision: 0001
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

FUNCTIONS = """
-- The one clock. In production plain now(); the test plugin replaces it, in its own databases, by one with an offset.
CREATE FUNCTION taskrunner.clock() RETURNS timestamptz
    LANGUAGE sql STABLE PARALLEL SAFE
    AS 'SELECT now()';

-- Element by element, for the histograms of task_stats. One expression without a FROM, so that the planner puts it in
-- place of the call: 300 tenants in a cycle are 600 calls.
CREATE FUNCTION taskrunner.add_histograms(bigint[], bigint[]) RETURNS bigint[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS 'SELECT ARRAY[coalesce($1[1], 0) + coalesce($2[1], 0), coalesce($1[2], 0) + coalesce($2[2], 0), coalesce($1[3], 0) + coalesce($2[3], 0),
                     coalesce($1[4], 0) + coalesce($2[4], 0), coalesce($1[5], 0) + coalesce($2[5], 0), coalesce($1[6], 0) + coalesce($2[6], 0),
                     coalesce($1[7], 0) + coalesce($2[7], 0), coalesce($1[8], 0) + coalesce($2[8], 0), coalesce($1[9], 0) + coalesce($2[9], 0),
                     coalesce($1[10], 0) + coalesce($2[10], 0), coalesce($1[11], 0) + coalesce($2[11], 0), coalesce($1[12], 0) + coalesce($2[12], 0),
                     coalesce($1[13], 0) + coalesce($2[13], 0)]';

-- One new task in one round trip, committed with it, which must do nothing where it comes too late: a client that has
-- lost it on the way has repeated it by then, and said so under a key. Each statement sees what is committed before it.
CREATE FUNCTION taskrunner.add_one(
    id_ uuid, tenant_ text, queue_ text, type_ text, priority_ int, payload_ jsonb, max_retries_ int, meta_ jsonb,
    at_ timestamptz, delay_ float8
) RETURNS float8
    LANGUAGE plpgsql
    AS $$
BEGIN
    INSERT INTO taskrunner.task
           (id, tenant, queue, type, priority, payload, max_retries, meta, maturity_at, created_at, fair_tenant)
    VALUES (id_, tenant_, queue_, type_, priority_, payload_, max_retries_, meta_,
            coalesce(at_, taskrunner.clock() + make_interval(secs => delay_)), taskrunner.clock(),
            (SELECT tenant_ FROM taskrunner.queue_settings q WHERE q.queue = queue_ AND q.fair));
    IF EXISTS (SELECT FROM taskrunner.idempotency_key k
                WHERE k.tenant = tenant_ AND k.type = type_ AND k.key = 'repeat ' || id_) THEN
        RAISE unique_violation USING CONSTRAINT = 'task_pkey', MESSAGE = 'this enqueue has been repeated already';
    END IF;
    RETURN CASE WHEN at_ IS NULL THEN delay_ ELSE extract(epoch FROM at_ - taskrunner.clock()) END;
END
$$;
"""

TABLES = """
CREATE TABLE taskrunner.task (
    id UUID NOT NULL,
    maturity_at TIMESTAMP WITH TIME ZONE NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    claim_no BIGINT DEFAULT 0 NOT NULL,
    priority INTEGER DEFAULT 100 NOT NULL,
    tries INTEGER DEFAULT 0 NOT NULL,
    crashes INTEGER DEFAULT 0 NOT NULL,
    max_retries INTEGER DEFAULT 3 NOT NULL,
    has_children BOOLEAN DEFAULT false NOT NULL,
    awaited BOOLEAN DEFAULT false NOT NULL,
    tenant TEXT DEFAULT 'default' NOT NULL,
    queue TEXT DEFAULT 'default' NOT NULL,
    type TEXT NOT NULL,
    state TEXT DEFAULT 'pending' NOT NULL,
    runner_id UUID,
    claimed_at TIMESTAMP WITH TIME ZONE,
    started_at TIMESTAMP WITH TIME ZONE,
    deadline_at TIMESTAMP WITH TIME ZONE,
    cancel_requested_at TIMESTAMP WITH TIME ZONE,
    unique_key TEXT,
    requeued_from UUID,
    schedule_id UUID,
    tick_at TIMESTAMP WITH TIME ZONE,
    payload JSONB DEFAULT '{}' NOT NULL,
    meta JSONB DEFAULT '{}' NOT NULL,
    errors JSONB DEFAULT '[]' NOT NULL,
    progress JSONB,
    successor JSONB,
    fair_tenant TEXT COLLATE "C",
    waits_for INTEGER,
    PRIMARY KEY (id),
    CONSTRAINT task_state_check CHECK (state IN ('pending', 'running', 'blocked')),
    CONSTRAINT task_successor_check CHECK (successor IS NULL OR ((successor ->> 'id')::uuid IS NOT NULL
        AND successor ->> 'queue' IS NOT NULL
        AND (successor ->> 'priority')::int IS NOT NULL
        AND (successor ->> 'max_retries')::int IS NOT NULL
        AND successor -> 'payload' IS NOT NULL
        AND successor -> 'meta' IS NOT NULL
        AND isfinite((successor ->> 'created_at')::timestamptz) IS TRUE
        AND isfinite((successor ->> 'maturity_at')::timestamptz) IS TRUE)),
    CONSTRAINT task_tenant_check CHECK (tenant <> '')
);
CREATE INDEX task_claim ON taskrunner.task (queue, type, priority, maturity_at, id) WHERE state = 'pending';
CREATE INDEX task_fair ON taskrunner.task (queue, type, fair_tenant, priority, maturity_at, id)
    WHERE state = 'pending' AND fair_tenant IS NOT NULL;
CREATE INDEX task_running ON taskrunner.task (runner_id) WHERE state = 'running';
CREATE UNIQUE INDEX task_tick ON taskrunner.task (schedule_id, tick_at) WHERE schedule_id IS NOT NULL;
CREATE UNIQUE INDEX task_unique ON taskrunner.task (tenant, type, unique_key) WHERE unique_key IS NOT NULL;
CREATE TABLE taskrunner.task_history (
    id UUID NOT NULL,
    finished_at TIMESTAMP WITH TIME ZONE NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE,
    maturity_at TIMESTAMP WITH TIME ZONE NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    claim_no BIGINT NOT NULL,
    run_seconds DOUBLE PRECISION,
    priority INTEGER NOT NULL,
    tries INTEGER NOT NULL,
    crashes INTEGER NOT NULL,
    max_retries INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    queue TEXT NOT NULL,
    type TEXT NOT NULL,
    state TEXT NOT NULL,
    runner_id UUID,
    unique_key TEXT,
    requeued_from UUID,
    schedule_id UUID,
    tick_at TIMESTAMP WITH TIME ZONE,
    payload JSONB NOT NULL,
    meta JSONB NOT NULL,
    errors JSONB NOT NULL,
    progress JSONB,
    result JSONB,
    CONSTRAINT task_history_pkey PRIMARY KEY (id, finished_at),
    CONSTRAINT task_history_state_check CHECK (state IN ('succeeded', 'ignored', 'cancelled'))
) PARTITION BY RANGE (finished_at);
CREATE INDEX task_history_rare ON taskrunner.task_history (state, id) WHERE state <> 'succeeded';
CREATE TABLE taskrunner.dead_letter (
    id UUID NOT NULL,
    finished_at TIMESTAMP WITH TIME ZONE NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE,
    maturity_at TIMESTAMP WITH TIME ZONE NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    claim_no BIGINT NOT NULL,
    run_seconds DOUBLE PRECISION,
    priority INTEGER NOT NULL,
    tries INTEGER NOT NULL,
    crashes INTEGER NOT NULL,
    max_retries INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    queue TEXT NOT NULL,
    type TEXT NOT NULL,
    runner_id UUID,
    unique_key TEXT,
    requeued_from UUID,
    requeued_as UUID,
    schedule_id UUID,
    tick_at TIMESTAMP WITH TIME ZONE,
    payload JSONB NOT NULL,
    meta JSONB NOT NULL,
    errors JSONB NOT NULL,
    progress JSONB,
    PRIMARY KEY (id)
);
CREATE INDEX dead_letter_finished ON taskrunner.dead_letter (finished_at);
CREATE INDEX dead_letter_open ON taskrunner.dead_letter (type, id) WHERE requeued_as IS NULL;
CREATE TABLE taskrunner.runner (
    id UUID NOT NULL,
    kind TEXT DEFAULT 'runner' NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    queues TEXT[] DEFAULT '{}' NOT NULL,
    types TEXT[] DEFAULT '{}' NOT NULL,
    slots INTEGER DEFAULT 0 NOT NULL,
    running INTEGER DEFAULT 0 NOT NULL,
    strays INTEGER DEFAULT 0 NOT NULL,
    version TEXT NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE NOT NULL,
    lease_until TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (id)
);
CREATE INDEX runner_lease ON taskrunner.runner (lease_until);
CREATE TABLE taskrunner.schedule (
    id UUID NOT NULL,
    tenant TEXT DEFAULT 'default' NOT NULL,
    name TEXT NOT NULL,
    type TEXT NOT NULL,
    trigger TEXT NOT NULL,
    timezone TEXT DEFAULT 'UTC' NOT NULL,
    start_at TIMESTAMP WITH TIME ZONE,
    end_at TIMESTAMP WITH TIME ZONE,
    jitter INTERVAL,
    key TEXT,
    queue TEXT,
    priority INTEGER,
    next_tick_at TIMESTAMP WITH TIME ZONE,
    last_tick_at TIMESTAMP WITH TIME ZONE,
    last_task_id UUID,
    last_error TEXT,
    ticks BIGINT DEFAULT 0 NOT NULL,
    skipped BIGINT DEFAULT 0 NOT NULL,
    paused BOOLEAN DEFAULT false NOT NULL,
    catch_up TEXT DEFAULT 'latest' NOT NULL,
    payload JSONB DEFAULT '{}' NOT NULL,
    declared_in TEXT DEFAULT 'code' NOT NULL,
    declared_version BIGINT DEFAULT 0 NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT schedule_name UNIQUE (tenant, name),
    CONSTRAINT schedule_catch_up_check CHECK (catch_up IN ('latest', 'all', 'skip')),
    CONSTRAINT schedule_declared_in_check CHECK (declared_in IN ('code', 'runtime'))
);
CREATE INDEX schedule_due ON taskrunner.schedule (next_tick_at) WHERE NOT paused;
CREATE TABLE taskrunner.dependency (
    parent_id UUID NOT NULL,
    child_id UUID NOT NULL,
    tenant TEXT DEFAULT 'default' NOT NULL,
    on_failure TEXT DEFAULT 'fail' NOT NULL,
    CONSTRAINT dependency_pkey PRIMARY KEY (parent_id, child_id),
    CONSTRAINT dependency_on_failure_check CHECK (on_failure IN ('fail', 'run', 'wait'))
);
CREATE INDEX dependency_child ON taskrunner.dependency (child_id);
CREATE TABLE taskrunner.effect (
    task_id UUID NOT NULL,
    key TEXT NOT NULL,
    tenant TEXT DEFAULT 'default' NOT NULL,
    value JSONB,
    claim_no BIGINT NOT NULL,
    done_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT effect_pkey PRIMARY KEY (task_id, key, claim_no)
);
CREATE INDEX effect_done ON taskrunner.effect (done_at);
CREATE TABLE taskrunner.idempotency_key (
    tenant TEXT NOT NULL,
    type TEXT NOT NULL,
    key TEXT NOT NULL,
    task_id UUID NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT idempotency_key_pkey PRIMARY KEY (tenant, type, key)
);
CREATE INDEX idempotency_key_expiry ON taskrunner.idempotency_key (expires_at);
CREATE INDEX idempotency_key_successor ON taskrunner.idempotency_key (key) WHERE starts_with(key, 'successor ');
CREATE TABLE taskrunner.queue_settings (
    queue TEXT NOT NULL,
    paused BOOLEAN DEFAULT false NOT NULL,
    paused_at TIMESTAMP WITH TIME ZONE,
    fair BOOLEAN DEFAULT false NOT NULL,
    weights JSONB DEFAULT '{}' NOT NULL,
    limits JSONB DEFAULT '{}' NOT NULL,
    PRIMARY KEY (queue)
);
CREATE TABLE taskrunner.tenant_role (
    role TEXT NOT NULL,
    tenant TEXT NOT NULL,
    PRIMARY KEY (role)
);
CREATE TABLE taskrunner.task_log (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    task_id UUID NOT NULL,
    tenant TEXT DEFAULT 'default' NOT NULL,
    claim_no BIGINT NOT NULL,
    logged_at TIMESTAMP WITH TIME ZONE NOT NULL,
    level TEXT NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (id)
);
CREATE INDEX task_log_task ON taskrunner.task_log (task_id, id);
CREATE INDEX task_log_logged ON taskrunner.task_log USING brin (logged_at);
CREATE TABLE taskrunner.audit (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    acted_at TIMESTAMP WITH TIME ZONE NOT NULL,
    tenant TEXT DEFAULT 'default' NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    details JSONB DEFAULT '{}' NOT NULL,
    PRIMARY KEY (id)
);
CREATE INDEX audit_acted ON taskrunner.audit (acted_at);
CREATE INDEX audit_target ON taskrunner.audit (target, id);
CREATE TABLE taskrunner.task_stats (
    minute TIMESTAMP WITH TIME ZONE NOT NULL,
    runner_id UUID NOT NULL,
    tenant TEXT NOT NULL,
    queue TEXT NOT NULL,
    type TEXT NOT NULL,
    outcome TEXT NOT NULL,
    count BIGINT NOT NULL,
    run_seconds DOUBLE PRECISION NOT NULL,
    wait_seconds DOUBLE PRECISION NOT NULL,
    run_histogram BIGINT[] NOT NULL,
    wait_histogram BIGINT[] NOT NULL,
    CONSTRAINT task_stats_pkey PRIMARY KEY (minute, runner_id, tenant, queue, type, outcome)
);
"""

STORAGE = """
-- A missing partition never fails a task: rows go here, and the janitor moves them.
CREATE TABLE taskrunner.task_history_default PARTITION OF taskrunner.task_history DEFAULT;

-- The hot table: every row is updated once or twice and deleted, so vacuum must come often, and without naps.
-- Half-full pages: a claim's new row version finds room beside the old one, which saves 60 bytes of WAL a task.
ALTER TABLE taskrunner.task SET (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0.05,
    autovacuum_analyze_threshold = 1000
);
ALTER TABLE taskrunner.runner SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.1);
ALTER TABLE taskrunner.task_stats SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
"""

# Row security binds everybody but the owner of the tables: runners, schedulers and a plain installation see no policy
# in their plans. Roles and grants come by `taskrunner migrate --roles`; without grants nobody else reaches a table.
POLICIES = """
-- What the names of this database's roles begin with; `migrate --roles` puts its own in place.
CREATE FUNCTION taskrunner.roles() RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT 'taskrunner' $$;

-- The tenant that this session is bound to: the one its login is mapped to, whatever it SETs; else, for logins that are
-- trusted to say so, what they have SET LOCAL. NULL, which equals nothing, where nobody is bound. By session_user, which
-- SET ROLE leaves alone. With the rights of its owner, since nobody else may read tenant_role; so the path is fixed.
CREATE FUNCTION taskrunner.bound_tenant() RETURNS text
    LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    login constant text := session_user;  -- as text of the column's collation, or its key would not be used
    bound text;
BEGIN
    SELECT r.tenant INTO bound FROM taskrunner.tenant_role r WHERE r.role = login;
    IF bound IS NULL AND (pg_has_role(session_user, to_regrole(taskrunner.roles() || '_user'), 'MEMBER')
                       OR pg_has_role(session_user, to_regrole(taskrunner.roles() || '_reader'), 'MEMBER')) THEN
        bound := nullif(current_setting('taskrunner.tenant', true), '');
    END IF;
    RETURN bound;
END
$$;

-- Whether a task is another tenant's than the one that this session is bound to; live ones first, by far the most.
CREATE FUNCTION taskrunner.is_foreign(id_ uuid) RETURNS boolean
    LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    found text;
BEGIN
    SELECT t.tenant INTO found FROM taskrunner.task t WHERE t.id = id_;
    IF found IS NULL THEN
        SELECT h.tenant INTO found FROM taskrunner.task_history h WHERE h.id = id_
         UNION ALL SELECT d.tenant FROM taskrunner.dead_letter d WHERE d.id = id_ LIMIT 1;
    END IF;
    RETURN found IS NOT NULL AND found IS DISTINCT FROM taskrunner.bound_tenant();
END
$$;

-- Policies also say what values a tenant's login may write. The engine's statements are batches over all tenants: one
-- row that overflows, or that the driver cannot read, would stop everybody's. CHECKs would say the same at the owner's
-- cost. Instants: Python's years in any time zone; LEAST and GREATEST pass NULLs by, and infinity is greater than all.
-- In a sub-select, so that it is called once a statement and not once a row.
ALTER TABLE taskrunner.task ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON taskrunner.task FOR SELECT
    USING (tenant = (SELECT taskrunner.bound_tenant()));
CREATE POLICY tenant_deletes ON taskrunner.task FOR DELETE
    USING (tenant = (SELECT taskrunner.bound_tenant()));
CREATE POLICY tenant_adds ON taskrunner.task FOR INSERT
    WITH CHECK (tenant = (SELECT taskrunner.bound_tenant()) AND (fair_tenant IS NULL OR fair_tenant = tenant COLLATE "C")
        AND state <> 'running' AND claim_no = 0 AND tries = 0 AND crashes = 0 AND max_retries >= 0 AND errors = '[]'
        AND coalesce(waits_for > 0, true)
        AND num_nonnulls(runner_id, claimed_at, started_at, deadline_at, progress, successor) = 0
        AND least(maturity_at, created_at, cancel_requested_at, tick_at) >= '0001-01-02 00:00+00'
        AND greatest(maturity_at, created_at, cancel_requested_at, tick_at) < '9999-12-31 00:00+00'
        AND jsonb_typeof(payload) = 'object' AND jsonb_typeof(meta) = 'object'
        AND length(queue) <= 200 AND length(type) <= 200);
-- What is granted of the columns cannot alter claims, crashes and errors. A successor becomes a task as it is.
CREATE POLICY tenant_steers ON taskrunner.task FOR UPDATE
    USING (tenant = (SELECT taskrunner.bound_tenant()))
    WITH CHECK (tenant = (SELECT taskrunner.bound_tenant()) AND (fair_tenant IS NULL OR fair_tenant = tenant COLLATE "C")
        AND (state <> 'running' OR runner_id IS NOT NULL)
        AND tries BETWEEN 0 AND 1000000000 AND max_retries >= 0 AND coalesce(waits_for > 0, true)
        AND least(maturity_at, cancel_requested_at) >= '0001-01-02 00:00+00'
        AND greatest(maturity_at, cancel_requested_at) < '9999-12-31 00:00+00'
        AND jsonb_typeof(payload) = 'object' AND jsonb_typeof(meta) = 'object'
        AND coalesce(jsonb_typeof(progress) = 'object', true) AND length(queue) <= 200
        AND (successor IS NULL OR (
            least((successor ->> 'maturity_at')::timestamptz, (successor ->> 'created_at')::timestamptz)
                >= '0001-01-02 00:00+00'
            AND greatest((successor ->> 'maturity_at')::timestamptz, (successor ->> 'created_at')::timestamptz)
                < '9999-12-31 00:00+00'
            AND (successor ->> 'max_retries')::int >= 0 AND length(successor ->> 'queue') <= 200
            AND jsonb_typeof(successor -> 'payload') = 'object' AND jsonb_typeof(successor -> 'meta') = 'object')));
-- A tick is unique: who could write one for somebody's schedule could keep the real one out.
CREATE POLICY own_schedule ON taskrunner.task AS RESTRICTIVE FOR INSERT
    WITH CHECK (schedule_id IS NULL OR EXISTS (SELECT FROM taskrunner.schedule s WHERE s.id = schedule_id));

-- A tenant's cancel ends a task; what was run is written by runners.
ALTER TABLE taskrunner.task_history ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON taskrunner.task_history FOR SELECT
    USING (tenant = (SELECT taskrunner.bound_tenant()));
CREATE POLICY tenant_cancels ON taskrunner.task_history FOR INSERT
    WITH CHECK (tenant = (SELECT taskrunner.bound_tenant()) AND state = 'cancelled'
        AND finished_at BETWEEN taskrunner.clock() - interval '1 minute' AND taskrunner.clock()
        AND num_nonnulls(started_at, run_seconds, runner_id, result) = 0
        AND least(maturity_at, created_at, tick_at) >= '0001-01-02 00:00+00'
        AND greatest(maturity_at, created_at, tick_at) < '9999-12-31 00:00+00'
        AND jsonb_typeof(payload) = 'object' AND jsonb_typeof(meta) = 'object' AND jsonb_typeof(errors) = 'array'
        AND coalesce(jsonb_typeof(progress) = 'object', true));
-- Policies of the parent hold for those who come through it; to a partition itself nobody is to be let.
ALTER TABLE taskrunner.task_history_default ENABLE ROW LEVEL SECURITY;

ALTER TABLE taskrunner.dead_letter ENABLE ROW LEVEL SECURITY;
-- One of a task that lives is overwritten when that is buried.
CREATE POLICY tenant ON taskrunner.dead_letter USING (tenant = (SELECT taskrunner.bound_tenant()))
    WITH CHECK (tenant = (SELECT taskrunner.bound_tenant())
        AND least(finished_at, started_at, maturity_at, created_at, tick_at) >= '0001-01-02 00:00+00'
        AND greatest(finished_at, started_at, maturity_at, created_at, tick_at) < '9999-12-31 00:00+00'
        AND tries BETWEEN 0 AND 1000000000 AND crashes BETWEEN 0 AND 1000000000 AND max_retries >= 0 AND claim_no >= 0
        AND coalesce(run_seconds BETWEEN -1e12 AND 1e12, true)
        AND jsonb_typeof(payload) = 'object' AND jsonb_typeof(meta) = 'object' AND jsonb_typeof(errors) = 'array'
        AND coalesce(jsonb_typeof(progress) = 'object', true));
ALTER TABLE taskrunner.schedule ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON taskrunner.schedule USING (tenant = (SELECT taskrunner.bound_tenant()))
    WITH CHECK (tenant = (SELECT taskrunner.bound_tenant())
        AND least(start_at, end_at, next_tick_at, last_tick_at, created_at) >= '0001-01-02 00:00+00'
        AND greatest(start_at, end_at, next_tick_at, last_tick_at, created_at) < '9999-12-31 00:00+00'
        AND coalesce(jitter BETWEEN interval '0' AND interval '36500 days', true)
        AND ticks BETWEEN 0 AND 1000000000000000 AND skipped BETWEEN 0 AND 1000000000000000
        AND jsonb_typeof(payload) = 'object');
ALTER TABLE taskrunner.effect ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON taskrunner.effect USING (tenant = (SELECT taskrunner.bound_tenant()))
    WITH CHECK (tenant = (SELECT taskrunner.bound_tenant()) AND NOT taskrunner.is_foreign(task_id));
ALTER TABLE taskrunner.idempotency_key ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON taskrunner.idempotency_key USING (tenant = (SELECT taskrunner.bound_tenant()));
ALTER TABLE taskrunner.task_log ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON taskrunner.task_log USING (tenant = (SELECT taskrunner.bound_tenant()));
ALTER TABLE taskrunner.audit ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON taskrunner.audit USING (tenant = (SELECT taskrunner.bound_tenant()))
    WITH CHECK (tenant = (SELECT taskrunner.bound_tenant())
        AND acted_at >= '0001-01-02 00:00+00' AND acted_at < '9999-12-31 00:00+00');
ALTER TABLE taskrunner.task_stats ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON taskrunner.task_stats FOR SELECT USING (tenant = (SELECT taskrunner.bound_tenant()));
-- Counts of what a tenant has cancelled belong to no runner: the rows that runners add to are not a tenant's to write.
CREATE POLICY tenant_counts ON taskrunner.task_stats FOR INSERT
    WITH CHECK (tenant = (SELECT taskrunner.bound_tenant())
        AND runner_id = '00000000-0000-0000-0000-000000000000' AND outcome IN ('cancelled', 'dead')
        AND minute BETWEEN taskrunner.clock() - interval '1 hour' AND taskrunner.clock()
        AND count BETWEEN 0 AND 1000000000000
        AND run_seconds BETWEEN 0 AND 1e12 AND wait_seconds BETWEEN 0 AND 1e12
        AND cardinality(run_histogram) <= 13 AND cardinality(wait_histogram) <= 13
        AND 0 <= ALL (run_histogram) AND 1000000000000 >= ALL (run_histogram)
        AND 0 <= ALL (wait_histogram) AND 1000000000000 >= ALL (wait_histogram));
CREATE POLICY tenant_adds_up ON taskrunner.task_stats FOR UPDATE
    USING (tenant = (SELECT taskrunner.bound_tenant()) AND runner_id = '00000000-0000-0000-0000-000000000000')
    WITH CHECK (tenant = (SELECT taskrunner.bound_tenant())
        AND runner_id = '00000000-0000-0000-0000-000000000000' AND outcome IN ('cancelled', 'dead')
        AND minute BETWEEN taskrunner.clock() - interval '1 hour' AND taskrunner.clock()
        AND count BETWEEN 0 AND 1000000000000
        AND run_seconds BETWEEN 0 AND 1e12 AND wait_seconds BETWEEN 0 AND 1e12
        AND cardinality(run_histogram) <= 13 AND cardinality(wait_histogram) <= 13
        AND 0 <= ALL (run_histogram) AND 1000000000000 >= ALL (run_histogram)
        AND 0 <= ALL (wait_histogram) AND 1000000000000 >= ALL (wait_histogram));
-- Both ends are to be one's own, if they are there at all: a requeued task keeps parents that retention has removed.
ALTER TABLE taskrunner.dependency ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON taskrunner.dependency
    USING (tenant = (SELECT taskrunner.bound_tenant()))
    WITH CHECK (tenant = (SELECT taskrunner.bound_tenant())
           AND NOT taskrunner.is_foreign(parent_id) AND NOT taskrunner.is_foreign(child_id));
-- For the owner alone.
ALTER TABLE taskrunner.tenant_role ENABLE ROW LEVEL SECURITY;
"""


def upgrade() -> None:
    op.execute("CREATE SCHEMA IF NOT EXISTS taskrunner")
    for script in (FUNCTIONS, TABLES, STORAGE, POLICIES):
        op.execute(script)


def downgrade() -> None:
    for table in (
        "dependency", "task", "task_history", "dead_letter", "runner", "schedule", "effect", "idempotency_key",
        "queue_settings", "tenant_role", "task_log", "audit", "task_stats",
    ):
        op.execute(f"DROP TABLE taskrunner.{table}")
    op.execute("DROP FUNCTION taskrunner.add_histograms(bigint[], bigint[])")
    op.execute(
        "DROP FUNCTION taskrunner.add_one(uuid, text, text, text, int, jsonb, int, jsonb, timestamptz, float8)"
    )
    op.execute("DROP FUNCTION taskrunner.clock()")
    op.execute("DROP FUNCTION taskrunner.is_foreign(uuid)")
    op.execute("DROP FUNCTION taskrunner.bound_tenant()")
    op.execute("DROP FUNCTION taskrunner.roles()")
