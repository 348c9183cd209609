"""Tasks that log in every way there is, and know a secret; a runner imports this file (TASKRUNNER_TASKS=talkative)."""

from __future__ import annotations

import asyncio
import logging
import threading
import warnings
from contextvars import copy_context

from pydantic import SecretStr

from taskrunner import Task, register_task

theirs = logging.getLogger("shop.orders")


class Talkative(Task):
    """Logs by its own logger and by the program's, and fails the first time, telling its secret."""

    secret: SecretStr
    """Called so that no configured name covers it."""

    def next_try(self) -> float | None:
        return 0.1 if self.tries == 0 else None

    def talk(self, way: str) -> dict[str, str]:
        token = self.secret.get_secret_value()
        self.context.logger.info("%s: mine of %s", way, token, extra={"order": 7})
        theirs.warning("%s: theirs\nin two lines, of %s", way, token, extra={"bearer": token})
        warnings.warn(f"{way}: a warning of {token}", stacklevel=1)
        self.context.progress(1, 2, f"half of {token}")
        beside = threading.Thread(target=copy_context().run, args=(theirs.info, "%s: beside", way))
        beside.start()
        beside.join()
        if self.tries == 0:
            try:
                raise ValueError(f"no {token}")
            except ValueError as error:
                theirs.exception("%s: it failed", way)
                raise RuntimeError(token) from error
        return {"used": token}


@register_task("talk.loop")
class OnLoop(Talkative):
    """On the event loop."""

    async def run(self) -> dict[str, str]:
        await asyncio.to_thread(theirs.info, "loop: in a thread")
        return self.talk("loop")


@register_task("talk.thread")
class InThread(Talkative):
    """In a thread, and in one that breaks off."""

    def run(self) -> dict[str, str]:
        broken = threading.Thread(target=copy_context().run, args=(self._break,), name="broken")
        broken.start()
        broken.join()
        return self.talk("thread")

    def _break(self) -> None:
        raise OSError(f"a thread that knows {self.secret.get_secret_value()}")


@register_task("talk.process", executor="process")
class InProcess(Talkative):
    """In a child process."""

    def run(self) -> dict[str, str]:
        return self.talk("process")


@register_task("talk.killed")
class Killed(Talkative):
    """Logs, and goes on until it is killed."""

    async def run(self) -> None:
        self.context.logger.info("the last words")
        await asyncio.sleep(600)
