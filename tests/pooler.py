"""Debian's PgBouncer before a test's server: each transaction may get another session."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest


@contextmanager
def pooler(database_url: str, login_url: str) -> Iterator[str]:
    """Run a PgBouncer in transaction mode with one server session for all clients; returns the login's URL by it."""
    program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    if not Path(program).exists():
        pytest.skip("PgBouncer is not installed")
    folder = Path(tempfile.mkdtemp(prefix="pooler-"))
    parts, who = urlsplit(database_url), urlsplit(login_url)
    place = {key: values[0] for key, values in parse_qs(parts.query).items()}
    host, port = place.get("host", parts.hostname or "localhost"), place.get("port", str(parts.port or 5432))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        own = probe.getsockname()[1]
    (folder / "users").write_text(f'"{who.username}" "{who.password}"\n')
    (folder / "ini").write_text(
        f"[databases]\n* = host={host} port={port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {own}\n"
        f"unix_socket_dir =\nauth_type = plain\nauth_file = {folder}/users\npool_mode = transaction\n"
        "default_pool_size = 1\nserver_reset_query =\nignore_startup_parameters = extra_float_digits,options\n"
    )
    folder.chmod(0o755)
    # It will not run as root, and must reach the server's socket: as whoever owns that.
    account = {"user": Path(host).stat().st_uid if host.startswith("/") else "nobody"} if os.geteuid() == 0 else {}
    running = subprocess.Popen(
        [program, "-q", f"{folder}/ini"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **account
    )
    url = f"postgresql://{who.username}:{who.password}@127.0.0.1:{own}{parts.path}"
    try:
        until = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(url, autocommit=True, prepare_threshold=None, connect_timeout=30).close()
                break
            except psycopg.OperationalError:
                assert time.monotonic() < until, "the pooler does not answer"
                assert running.poll() is None, "the pooler has ended"
                time.sleep(0.05)
        yield url
    finally:
        running.terminate()
        running.wait(10)
        shutil.rmtree(folder, ignore_errors=True)
