"""`python -m taskrunner.foreground COMMAND …`: become the terminal's foreground job, then the command.

For `make run`: Ctrl-C reaches the supervisor alone, which drains and ends with 0; make would otherwise be interrupted
with it and end with 130, whatever the drain came to. Without a terminal nothing changes.
"""

from __future__ import annotations

import os
import signal
import sys


def take_terminal() -> None:
    """Lead a process group of our own, and make it the terminal's foreground group, if we are in that now."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return
    if os.tcgetpgrp(terminal) == os.getpgrp():
        os.setpgid(0, 0)
        before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # raised in whoever takes the terminal from behind
        os.tcsetpgrp(terminal, os.getpgrp())
        signal.signal(signal.SIGTTOU, before)
        # The shell knows nothing of our group: stopped by Ctrl-Z, nobody could continue it.
        signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    os.close(terminal)


if __name__ == "__main__":
    take_terminal()
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - the command is the caller's own
