"""Creating a data folder: all of it beside its place, then one rename, so that half of one is never taken for one."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from taskrunner.embedded.binaries import Binaries, system_binaries
from taskrunner.embedded.folders import Home
from taskrunner.embedded.trouble import explain
from taskrunner.errors import EmbeddedError

SUPERUSER = "postgres"
OWNER = "taskrunner"
PASSWORDS = "pgpass"  # in libpq's form, so that PGPASSFILE may name it
DEFAULTS = {
    "listen_addresses": "",  # no TCP
    "unix_socket_permissions": "0700",
    "password_encryption": "scram-sha-256",
    "max_connections": "200",
    "shared_buffers": "64MB",  # small containers
    "jit": "off",  # compiling a plan costs more than any query of a task queue
}
HBA = "local all all scram-sha-256\nlocal replication all scram-sha-256\n"
HBA_TCP = "host all all all scram-sha-256\nhost replication all all scram-sha-256\n"


@dataclass(frozen=True)
class Recipe:
    """What a new data folder is to hold: settings over the defaults, and an ordinary role with a database or none."""

    settings: Mapping[str, str] = field(default_factory=dict)
    owner: str | None = None

    @property
    def durable(self) -> bool:
        """Whether initdb shall wait for the disk."""
        return self.settings.get("fsync", "on") != "off"


def create_data(home: Home, binaries: Binaries, recipe: Recipe) -> None:
    """Make `home.data`; a creation that was killed before leaves nothing that this one minds."""
    _sweep(home)
    new = home.data.with_name(f"{home.data.name}.new.{os.getpid()}")
    new.mkdir(mode=0o700)
    try:
        home.account.own(new)
        _initdb(new, home, binaries, recipe)
        _configure(new, recipe)
        _create_roles(new, home, binaries, recipe)
        new.rename(home.data)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    _sweep(home)  # again: the initdb of a creation that was killed lived on, and had made files behind the first


def check_version(home: Home, binaries: Binaries) -> None:
    """Raise EmbeddedError if the data were written by another major version; they are not touched."""
    written_by = (home.data / "PG_VERSION").read_text().strip()
    if written_by == str(binaries.major):
        return
    fitting = [str(each.folder) for each in system_binaries() if str(each.major) == written_by]
    old = fitting[0] if fitting else f"/path/to/postgresql-{written_by}/bin"
    raise EmbeddedError(
        f"{home.data} was written by PostgreSQL {written_by}, but {binaries.folder} is {binaries.version}. "
        f"Go on with the old one (TASKRUNNER_PG_BIN={old}), or bring the data over by `pg_upgrade`, or by `pg_dumpall` "
        "with the old and `psql` with the new version; to begin afresh, move that folder away"
    )


def password_of(role: str, data: Path) -> str:
    """Return the password that the creation of `data` gave to the role."""
    try:
        lines = (data / PASSWORDS).read_text().splitlines()
    except OSError as error:
        raise EmbeddedError(
            f"cannot read the private server's password: {error}; "
            "run as the user who first started it, or set DATABASE_URL"
        ) from error
    for line in lines:
        *_, name, password = line.split(":")
        if name == role:
            return password
    raise EmbeddedError(f"{data / PASSWORDS} has no line for the role {role!r}")


def _sweep(home: Home) -> None:
    for unfinished in home.folder.glob(f"{home.data.name}.new.*"):
        shutil.rmtree(unfinished, ignore_errors=True)


def _initdb(new: Path, home: Home, binaries: Binaries, recipe: Recipe) -> None:
    locale = ["--locale=C"]
    if binaries.major >= 17:
        locale += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    sync = [] if recipe.durable else ["--no-sync"]
    # `trust` ends with _configure, before any server runs on the folder; only single-user mode does.
    argv = [binaries.program("initdb"), "-D", str(new), "-U", SUPERUSER, "-E", "UTF8", "-A", "trust", *locale, *sync]
    done = home.account.run(argv)
    if done.returncode:
        raise EmbeddedError(f"initdb could not create {home.data}: {explain(done.stdout)}")


def _configure(new: Path, recipe: Recipe) -> None:
    settings = DEFAULTS | dict(recipe.settings)
    lines = [f"{name} = '{value}'\n" for name, value in ((n, v.replace("'", "''")) for n, v in settings.items())]
    _write(new / "postgresql.conf", "\n# taskrunner\n" + "".join(lines), os.O_APPEND)
    _write(new / "pg_hba.conf", HBA + (HBA_TCP if settings["listen_addresses"] else ""), os.O_TRUNC)


def _create_roles(new: Path, home: Home, binaries: Binaries, recipe: Recipe) -> None:
    passwords = {role: secrets.token_hex(24) for role in (SUPERUSER, recipe.owner) if role}
    script = [f"ALTER ROLE {SUPERUSER} PASSWORD '{passwords[SUPERUSER]}'"]
    if recipe.owner:
        script += [
            f"CREATE ROLE {recipe.owner} LOGIN PASSWORD '{passwords[recipe.owner]}'",
            f"CREATE DATABASE {recipe.owner} OWNER {recipe.owner}",
        ]
    argv = [binaries.program("postgres"), "--single", "-D", str(new), "-c", "exit_on_error=true", "postgres"]
    done = home.account.run(argv, stdin="".join(f"{statement}\n" for statement in script))
    if done.returncode:
        raise EmbeddedError(f"cannot create the roles of {home.data}: {explain(done.stdout)}")
    lines = [f"*:*:*:{role}:{password}\n" for role, password in passwords.items()]
    _write(new / PASSWORDS, "".join(lines), os.O_CREAT | os.O_EXCL)
    home.account.own(new / PASSWORDS)


def _write(path: Path, text: str, how: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | how, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)  # the rename must not reach the disk before what it names
