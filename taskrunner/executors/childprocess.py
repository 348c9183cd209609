"""One child process as the runner holds it: started afresh, killed with all it started, its exit awaited."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from asyncio import Future
from contextlib import suppress
from typing import Final

from taskrunner.executors.call import NoCapacity

# The path first: the child imports taskrunner and the project's tasks from where this process has them.
_BOOT: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from taskrunner.executors.child import main; main(int(sys.argv[1]))"
)


class ChildProcess:
    """A fresh interpreter that leads a session of its own: no signal to the runner's group or terminal reaches it.

    Not by the loop's `subprocess_exec`: uvloop's (0.23) hands down every inheritable file of the runner.
    """

    def __init__(self, fd: int) -> None:
        """Start it with the socket `fd`, from the loop's thread; raises NoCapacity, or OSError as the system words it.

        Linux ends the child when the *thread* that started it ends, so it must be one that lives as long as the runner.
        """
        self._loop = asyncio.get_running_loop()
        self.exit: Future[int] = self._loop.create_future()
        self._popen = subprocess.Popen(
            [sys.executable, "-c", _BOOT, str(fd), json.dumps(sys.path)],
            stdin=subprocess.DEVNULL,
            pass_fds=(fd,),
            start_new_session=True,
        )
        self._await_exit()

    @property
    def returncode(self) -> int | None:
        """What it exited with, negative for a signal; None while it lives."""
        return self.exit.result() if self.exit.done() else None

    @property
    def alive(self) -> bool:
        """Whether it lives: the kernel is asked, since word of its exit may be on its way and its socket still open."""
        if self.exit.done() or self._popen.returncode is not None:
            return False
        if sys.platform == "darwin":  # os.waitid is there from Python 3.13 on
            return True
        try:
            return os.waitid(os.P_PID, self._popen.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        except ChildProcessError:
            return False

    def kill(self) -> None:
        """Kill it, if it lives, with every process it started."""
        if self.returncode is None:
            self._kill_group()

    def _await_exit(self) -> None:
        waiter = threading.Thread(target=self._wait, name=f"taskrunner-child-{self._popen.pid}", daemon=True)
        try:
            waiter.start()
        except RuntimeError as error:
            self._kill_group()
            self._popen.wait()
            raise NoCapacity(f"cannot watch a process: {error}; raise `ulimit -u` or the pids limit") from error

    def _wait(self) -> None:
        returncode = self._popen.wait()
        # What it started goes with it. It is reaped, but its number is not given away while its group has members,
        # and the number of an empty group would have to come round between these two lines.
        self._kill_group()
        with suppress(RuntimeError):  # the loop is closed: the process is leaving
            self._loop.call_soon_threadsafe(self._exited, threading.current_thread(), returncode)

    def _exited(self, waiter: threading.Thread, returncode: int) -> None:
        waiter.join()  # it sent this as its last act
        self.exit.set_result(returncode)

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signal.SIGKILL)
