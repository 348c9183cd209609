"""`make run` at a terminal: Ctrl-C drains, and make ends with 0."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# A stand-in for the supervisor: ready at once, and gone with 0 when it is interrupted.
STAND_IN = """
import os, signal
signal.signal(signal.SIGINT, lambda *_: (os.write(1, b"drained"), os._exit(0)))
os.write(1, b"ready")
while True:
    signal.pause()
"""


def at_a_terminal(command: list[str], until: bytes, key: bytes) -> tuple[int, bytes]:
    """Run a command on a terminal of its own, press a key when it says `until`; return its exit code and words."""
    child, terminal = pty.fork()
    if child == 0:
        os.execvp(command[0], command)  # noqa: S606 - the test's own command
    said = b""
    try:
        while until not in said:
            said += os.read(terminal, 1024)
        os.write(terminal, key)
        while True:
            said += os.read(terminal, 1024)
    except OSError:  # EIO: the terminal's last process has ended
        pass
    finally:
        os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_ctrl_c_reaches_the_command_and_not_make(tmp_path: Path) -> None:
    """SPEC SHU 44."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    makefile = tmp_path / "Makefile"
    command = f"{sys.executable} -m taskrunner.foreground {sys.executable} {tmp_path / 'stand_in.py'}"
    makefile.write_text(f"run:\n\t@exec {command}\n")
    code, said = at_a_terminal(["make", "-f", str(makefile)], b"ready", b"\x03")
    assert (code, b"drained" in said) == (0, True)


def test_without_a_terminal_the_command_is_simply_run() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "taskrunner.foreground", "echo", "hello"],
        capture_output=True,
        start_new_session=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == b"hello\n"
