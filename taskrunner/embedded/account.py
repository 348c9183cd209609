"""Whose processes and files the private server's are: PostgreSQL refuses to run as root."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from taskrunner.errors import EmbeddedError

# Nothing of the caller's environment reaches the server: a stray PGDATA, LANG or TZ would change what it does.
# With TZ set, initdb also need not compare the machine's clock with hundreds of time zones.
CLEAN_ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C", "TZ": "UTC"}
UNPRIVILEGED = ("postgres", "nobody")


@dataclass(frozen=True)
class Account:
    """The user that runs initdb and the server: ourselves, or for root an ordinary one (`switch`)."""

    uid: int
    gid: int
    switch: bool

    def run(self, argv: Sequence[str], *, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a program to its end as this user and return its output, stderr folded into stdout."""
        with self.spawn(argv, stdin=subprocess.PIPE, output=subprocess.PIPE) as child:
            output, _ = child.communicate(stdin.encode())
        return subprocess.CompletedProcess(argv, child.returncode, output.decode(errors="replace"), "")

    def spawn(self, argv: Sequence[str], *, output: int, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        """Start a program as this user, in a session of its own (a terminal's Ctrl-C does not reach it)."""
        try:
            return subprocess.Popen(
                argv,
                stdin=stdin,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",  # our own folder may be out of this user's reach
                env=CLEAN_ENV,
                umask=0o077,
                start_new_session=True,
                user=self.uid if self.switch else None,
                group=self.gid if self.switch else None,
                extra_groups=[] if self.switch else None,
            )
        except OSError as error:
            raise EmbeddedError(f"cannot run {argv[0]} as user {self.uid}: {error}; set DATABASE_URL") from error

    def own(self, path: Path) -> None:
        """Give a file or folder that root has made to this user."""
        if self.switch:
            os.chown(path, self.uid, self.gid)

    def reaches(self, folder: Path) -> bool:
        """Tell whether this user can enter the folder; asked by trying, for modes, ACLs and mounts all count."""
        return not self.switch or self.run(["/bin/sh", "-c", 'cd -- "$1"', "sh", str(folder)]).returncode == 0


def account_for(data: Path) -> Account:
    """Return whom the server of this data folder must run as: its owner, or for root's new one an ordinary user."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid(), switch=False)
    if data.exists():
        return _owner_of(data)
    for name in UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid, switch=True)
    raise EmbeddedError(
        "PostgreSQL does not run as root, and there is neither a user `postgres` nor `nobody`: "
        "create one (`useradd --system postgres`), start as an ordinary user, or set DATABASE_URL"
    )


def _owner_of(data: Path) -> Account:
    stat = data.stat()
    if stat.st_uid == 0:
        raise EmbeddedError(
            f"{data} belongs to root, and PostgreSQL does not run as root: give it to an ordinary user "
            f"(`chown -R postgres {data}`), or set DATABASE_URL"
        )
    return Account(stat.st_uid, stat.st_gid, switch=True)
