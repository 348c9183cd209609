"""A Redis server of our own, and the little that has to be asked of it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.harness.processes import BenchError, wait_until

LEFT = (("LLEN", "celery"), ("HLEN", "unacked"))


class Redis:
    """A running server."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def url(self) -> str:
        """Where Celery finds it: on a socket, as PostgreSQL is."""
        return f"redis+socket://{self._path}"

    def ask(self, *words: str) -> str:
        """Send a command and return the first line of the answer, without its mark."""
        request = f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(5)
            link.connect(str(self._path))
            link.sendall(request.encode())
            answer = link.makefile("rb").readline().decode().strip()
        if answer.startswith("-"):
            raise BenchError(f"redis: {answer[1:]}")
        return answer[1:]

    def left(self) -> bool:
        """Tell whether anything is queued or fetched and not acknowledged."""
        return any(int(self.ask(*words)) for words in LEFT)

    def clear(self) -> None:
        """Forget everything."""
        self.ask("FLUSHALL")


def version() -> str:
    """Return the server's version; BenchError if there is none."""
    program = shutil.which("redis-server")
    if program is None:
        raise BenchError("redis-server is not installed (Debian: apt-get install redis-server)")
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return "Redis " + said.partition("v=")[2].split()[0]


@contextmanager
def running() -> Iterator[Redis]:
    """Start a server with its default settings in a folder of its own."""
    version()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        path = Path(name, "redis.sock")
        words = ["redis-server", "--port", "0", "--unixsocket", str(path), "--dir", name]
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        redis = Redis(path)
        try:
            wait_until(lambda: _answers(redis), patience=20, what="the start of redis-server", pause=0.05)
            yield redis
        finally:
            process.terminate()
            process.wait(20)


def _answers(redis: Redis) -> bool:
    with suppress(OSError):
        return redis.ask("PING") == "PONG"
    return False
