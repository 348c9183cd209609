"""The child process of `executor="process"`: takes calls from its runner, one at a time, until it is killed.

The runner starts it as a fresh interpreter with one socket. It ignores SIGINT and SIGTERM (the runner drains and
decides) and dies with its runner.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib
import inspect
import logging
import os
import select
import signal
import socket
import sys
import threading
from asyncio import CancelledError
from contextvars import copy_context
from functools import cache, reduce
from typing import Any, cast

from taskrunner import traces
from taskrunner.executors.call import BrokeOff, failed
from taskrunner.executors.childcontext import ChildContext
from taskrunner.executors.childlink import Link, LogToRunner
from taskrunner.executors.wire import DONE, FAILED, Request, pickled, to_json
from taskrunner.payload import load_payload
from taskrunner.runlog import tell_thread_failures
from taskrunner.secretfields import may_hold, secrets_in
from taskrunner.task import RunInfo, Task, bind
from taskrunner.veil import Veil

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_ROW = tuple(name for name in RunInfo._fields if name != "context")


def main(fd: int) -> None:
    """Serve the runner at the other end of the socket `fd`; does not return."""
    del sys.argv[1:]
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a TextIOWrapper; a kill loses what it holds
    connection = socket.socket(fileno=fd)
    connection.set_inheritable(False)  # it had to be, to get here; the programs that tasks start shall not have it
    _die_with_runner(connection)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _ignore)
    link = Link(connection)
    root = logging.getLogger()
    root.addHandler(LogToRunner(link))
    logging.captureWarnings(capture=True)
    tell_thread_failures()
    while True:
        request = link.next_call()
        if root.level != request.log_level:  # setting it makes every logger forget what it has worked out
            root.setLevel(request.log_level)
        link.send(*_run(request, link))


def _ignore(*_: object) -> None:
    """Take a signal without effect. SIG_IGN would be inherited by every program that a task starts."""


def _run(request: Request, link: Link) -> tuple[bytes, bytes]:
    """Run one call and return the frame's kind and body that tell what it came to; never raises."""
    context = ChildContext(request.info, link)
    try:
        return DONE, pickled(copy_context().run(_call_run, _rebuild(request, context), context, request))
    except CancelledError as error:
        return _failure(failed(error, "cancelled"), error)
    except BaseException as error:
        return _failure(failed(error), error)
    finally:
        context.end()


def _failure(outcome: BrokeOff, error: BaseException) -> tuple[bytes, bytes]:
    # After a MemoryError the process may be crippled, or limited by what the task set: it gets no further call.
    worn = isinstance(error, MemoryError)
    return FAILED, to_json({"error": dict(outcome.error), "kind": outcome.kind, "worn": worn})


def _rebuild(request: Request, context: ChildContext) -> Task:
    task = load_payload(_class(request.module, request.qualname), request.payload)
    row: dict[str, Any] = {name: request.info[name] for name in _ROW}
    bind(task, RunInfo(**row, context=context))
    if may_hold(type(task)):
        context.veil = Veil(secrets_in(task))
    return task


@cache
def _class(module: str, qualname: str) -> type[Task]:
    found: type[Task] = reduce(getattr, qualname.split("."), cast("Any", importlib.import_module(module)))
    return found


def _call_run(task: Task, context: ChildContext, request: Request) -> object:
    traces.enter_remote(request.info.get("trace"))
    value: object = task.run()
    if inspect.iscoroutine(value):
        return asyncio.run(context.settled(value))
    context.settle(value)
    return value


def _die_with_runner(connection: socket.socket) -> None:
    """Leave when the runner is gone: by the kernel's doing on Linux, elsewhere when the socket hangs up.

    The thread alone would not do for C code that holds the GIL; the kernel's signal alone spares the grandchildren.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_watch, args=(connection.fileno(),), name="taskrunner-runner-watch", daemon=True).start()


def _watch(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, 0)  # hang-up and error are always reported
    poll.poll()
    with contextlib.suppress(OSError):
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
    os._exit(1)
