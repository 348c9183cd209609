"""What the database itself saw: every change of a task and of a lease, noted by triggers in the change's transaction.

The checker trusts nothing that the engine says of itself: a change that was rolled back leaves no note, and one that
was committed cannot leave none.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import psycopg

from tests.chaos.history import Event

# Notes are numbered by a sequence: of one row, or of one unique key, their order is the order of the changes, since
# the row's lock or the index makes the second wait for the first one's commit.
_TRIGGERS = """
CREATE SCHEMA chaos;
CREATE TABLE chaos.note (
    no bigserial PRIMARY KEY, what text NOT NULL, body jsonb NOT NULL,
    at float8 NOT NULL DEFAULT extract(epoch FROM clock_timestamp()),
    by text NOT NULL DEFAULT current_setting('application_name'));

CREATE FUNCTION chaos.slim(t taskrunner.task) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object('state', t.state, 'claim_no', t.claim_no, 'runner', t.runner_id, 'tries', t.tries,
        'crashes', t.crashes, 'due_at', extract(epoch FROM t.maturity_at), 'started', t.started_at IS NOT NULL) $$;

CREATE FUNCTION chaos.note_task() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE t taskrunner.task := coalesce(NEW, OLD);
BEGIN
    INSERT INTO chaos.note (what, body) VALUES ('row', jsonb_build_object('op', TG_OP, 'task', t.id, 'type', t.type,
        'key', t.tenant || ' ' || t.type || ' ' || t.unique_key, 'schedule', t.schedule_id,
        'tick_at', extract(epoch FROM t.tick_at),
        'new', CASE WHEN TG_OP <> 'DELETE' THEN chaos.slim(NEW) END,
        'old', CASE WHEN TG_OP <> 'INSERT' THEN chaos.slim(OLD) END,
        'lease_left', (SELECT extract(epoch FROM r.lease_until - taskrunner.clock()) FROM taskrunner.runner r
                        WHERE TG_OP <> 'INSERT' AND r.id = OLD.runner_id)));
    RETURN NULL;
END $$;

CREATE FUNCTION chaos.note_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos.note (what, body) VALUES ('end', jsonb_build_object('task', NEW.id, 'type', NEW.type,
        'claim_no', NEW.claim_no, 'runner', NEW.runner_id, 'tries', NEW.tries, 'crashes', NEW.crashes,
        'state', CASE TG_ARGV[0] WHEN 'history' THEN to_jsonb(NEW) ->> 'state' ELSE 'dead' END));
    RETURN NULL;
END $$;

CREATE FUNCTION chaos.note_lease() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos.note (what, body) VALUES ('lease', jsonb_build_object('runner', NEW.id,
        'left', extract(epoch FROM NEW.lease_until - taskrunner.clock()),
        'before', extract(epoch FROM OLD.lease_until - taskrunner.clock())));
    RETURN NULL;
END $$;

CREATE TRIGGER chaos AFTER INSERT OR DELETE OR UPDATE OF state, claim_no, runner_id, tries, crashes
    ON taskrunner.task FOR EACH ROW EXECUTE FUNCTION chaos.note_task();
CREATE TRIGGER chaos AFTER INSERT ON taskrunner.task_history FOR EACH ROW EXECUTE FUNCTION chaos.note_end('history');
CREATE TRIGGER chaos AFTER INSERT ON taskrunner.dead_letter FOR EACH ROW EXECUTE FUNCTION chaos.note_end('dead');
CREATE TRIGGER chaos AFTER UPDATE OF lease_until ON taskrunner.runner
    FOR EACH ROW EXECUTE FUNCTION chaos.note_lease();
"""

_TABLES = """
SELECT (SELECT coalesce(jsonb_agg(jsonb_build_object('task', t.id, 'state', t.state)), '[]') FROM taskrunner.task t),
       (SELECT coalesce(jsonb_agg(h), '[]') FROM (
            SELECT h.type, h.state, count(*) FROM taskrunner.task_history h GROUP BY 1, 2
            UNION ALL SELECT d.type, 'dead', count(*) FROM taskrunner.dead_letter d GROUP BY 1) h),
       (SELECT coalesce(jsonb_agg(s), '[]') FROM (
            SELECT s.type, s.outcome AS state, sum(s.count) AS count FROM taskrunner.task_stats s GROUP BY 1, 2) s),
       (SELECT coalesce(jsonb_agg(s), '[]') FROM (
            SELECT s.id, s.trigger, extract(epoch FROM s.next_tick_at) AS next_tick_at,
                   s.skipped FROM taskrunner.schedule s) s)
"""

_LEFT = """
SELECT 'session ' || a.application_name || ' in state ' || coalesce(a.state, '?') FROM pg_stat_activity a
 WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
   AND a.application_name LIKE 'taskrunner%%' AND NOT a.application_name = ANY(%(ours)s)
UNION ALL
SELECT 'advisory lock ' || l.objid FROM pg_locks l
 WHERE l.locktype = 'advisory' AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
UNION ALL
SELECT 'prepared transaction ' || x.gid FROM pg_prepared_xacts x WHERE x.database = current_database()
"""

Connection = psycopg.Connection[Any]

OURS = ("taskrunner queue", "taskrunner wait")
"""Sessions of the test's own door; the second stays for some seconds after the last wait."""


def install(conn: Connection) -> None:
    """Begin to note what happens in this database."""
    conn.execute(_TRIGGERS)


def read(conn: Connection) -> list[Event]:
    """Return what was noted, in order."""
    rows = conn.execute("SELECT what, no, at, by, body FROM chaos.note ORDER BY no")
    return [{"what": what, "no": no, "at": at, "by": by, **body} for what, no, at, by, body in rows]


def tables(conn: Connection, leaks: Iterable[str] = (), ours: Iterable[str] = OURS) -> Event:
    """Return what the tables say in the end; `ours` are sessions of the test, `leaks` what it found outside."""
    row = conn.execute(_TABLES).fetchone()
    assert row is not None
    live, ended, stats, schedules = row
    left = [text for (text,) in conn.execute(_LEFT, {"ours": list(ours)})]
    leaks = [*leaks, *left]
    return {"what": "tables", "live": live, "ended": ended, "stats": stats, "schedules": schedules, "leaks": leaks}
