"""What people do, each action once for the command line, the API and the dashboard.

An action is its work, the row that it leaves in the audit trail (written in the same transaction, so that neither is
there without the other), and the command that does the same. `acting(actor, action)` is what a door runs. What code
does by a door of its own is not audited: its log is the program's.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar
from uuid import UUID

from uuid_utils.compat import uuid7

from taskrunner import fairness, roles
from taskrunner.admission import One
from taskrunner.db import Op, Steps, Work
from taskrunner.durations import spell
from taskrunner.errors import InvalidArgument
from taskrunner.reads import Schedule
from taskrunner.redaction import MASK, by_name
from taskrunner.schedules import Call, Planner
from taskrunner.store import audit, fair, flow, steering
from taskrunner.store.enqueue import Enqueued, Stored
from taskrunner.store.task import Due
from taskrunner.wishes import Changes

T = TypeVar("T")


def _nothing_to_tell(_: object) -> dict[str, Any]:
    return {}


@dataclass(frozen=True, slots=True)
class Action(Generic[T]):
    """One thing that a person does to one target.

    `name` is as in `task.cancel`; `details` says what of its value is kept in the trail; `task` is whose tenant it is
    filed under, else `tenant`, else that of the transaction.
    """

    name: str
    target: str
    command: str
    call: Call[T]
    details: Callable[[T], Mapping[str, Any]] = _nothing_to_tell
    task: UUID | None = None
    tenant: str | None = None
    request: UUID = field(default_factory=uuid7)
    took: Callable[[T], bool] = lambda _: True
    """Whether anything was done: what was not leaves no entry."""


def acting(actor: str, action: Action[T]) -> Call[T]:
    """Return the work of the action, noted as done by `actor`; it raises what the action raises, and notes nothing."""
    make, again = action.call.make, action.call.again or action.call.make
    return Call(lambda: _noted(actor, action, make()), lambda: _noted(actor, action, again()))


def _noted(actor: str, action: Action[T], work: Work[T]) -> Steps[T]:
    tenant = action.tenant
    if action.task is not None:
        tenant = yield audit.whose(action.task)
    value: T = (yield work) if isinstance(work, Op) else (yield from work)
    if action.took(value):
        told = action.details(value)
        yield audit.record(actor, action.name, action.target, details=told, request=action.request, tenant=tenant)
    return value


def _command(group: str, verb: str, *arguments: object, options: Collection[str] = ()) -> str:
    given = [str(argument) for argument in arguments]
    end = ["--"] if any(word.startswith("-") for word in given) else []
    return shlex.join(["taskrunner", group, verb, *options, *end, *given])


# ── tasks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def add_task(asked: One, command: str) -> Action[Stored]:
    """Store a task that somebody has made up; one that was there already is not noted."""
    task = asked.task
    return Action(
        "task.add",
        str(task.id),
        command,
        Call(asked.again),
        lambda _: {"type": task.type, "queue": task.queue},
        tenant=task.tenant,
        took=lambda stored: stored.answers[0].created,
    )


def cancel_task(id_: UUID) -> Action[str]:
    """Cancel a waiting task, or ask the runner of a running one to stop it: `steering.cancel`."""
    call = Call(lambda: steering.cancel(id_), lambda: steering.cancel(id_, repeated=True))
    return _of_task("cancel", id_, call, lambda outcome: {"outcome": outcome})


def delete_task(id_: UUID) -> Action[str]:
    """Take a waiting task back: it ends as cancelled."""
    call = Call(lambda: steering.cancel(id_, running=False), lambda: steering.cancel(id_, running=False, repeated=True))
    return _renamed(_of_task("delete", id_, call, lambda outcome: {"outcome": outcome}), "task.cancel")


def retry_task(id_: UUID) -> Action[UUID]:
    """Make a pending task due now, or requeue a dead one; the value is the id to look for."""
    new_id = uuid7()
    call = Call(lambda: steering.retry_now(id_, new_id))
    return _of_task("retry", id_, call, lambda live: {} if live == id_ else {"requeued_as": str(live)})


def reschedule_task(id_: UUID, *, at: datetime | None = None, delay: timedelta = timedelta(0)) -> Action[Due]:
    """Give a pending task a new maturity: the instant `at`, or `delay` from now."""
    when = ["--delay", f"{delay.total_seconds():g}s"] if at is None else ["--at", at.isoformat()]
    told = {"delay": spell(delay)} if at is None else {"at": at.isoformat()}
    call = Call(lambda: steering.reschedule(id_, at=at, delay=delay))
    return _of_task("reschedule", id_, call, lambda _: told, options=when)


def cancel_flow(id_: UUID) -> Action[dict[UUID, str]]:
    """Cancel all that is connected with a task."""
    call = Call(lambda: flow.cancel_flow(id_), lambda: flow.cancel_flow(id_, repeated=True))
    action = _of_task("cancel", id_, call, lambda outcomes: {"tasks": len(outcomes)}, options=["--flow"])
    return _renamed(action, "flow.cancel")


def retry_flow(id_: UUID) -> Action[dict[UUID, UUID]]:
    """Requeue all that is dead in a task's flow; the value is the new ids by the old ones."""
    call = Call(lambda: flow.retry_flow(id_), lambda: flow.retry_flow(id_, repeated=True))
    action = _of_task("retry", id_, call, lambda fresh: {"tasks": len(fresh)}, options=["--flow"])
    return _renamed(action, "flow.retry")


def _of_task(
    verb: str,
    id_: UUID,
    call: Call[T],
    details: Callable[[T], Mapping[str, Any]] = _nothing_to_tell,
    *,
    options: Collection[str] = (),
) -> Action[T]:
    return Action(f"task.{verb}", str(id_), _command("tasks", verb, id_, options=options), call, details, task=id_)


def _renamed(action: Action[T], name: str) -> Action[T]:
    return replace(action, name=name)


# ── dead letters ─────────────────────────────────────────────────────────────────────────────────────────────────────


def requeue_dead(id_: UUID) -> Action[UUID]:
    """Turn a dead letter into a new pending task, whose id is the value."""
    new_id = uuid7()
    call = Call(lambda: steering.requeue(id_, new_id))
    return Action(
        "dead.requeue",
        str(id_),
        _command("dead", "requeue", id_),
        call,
        lambda live: {"requeued_as": str(live)},
        task=id_,
    )


def delete_dead(id_: UUID) -> Action[UUID]:
    """Delete a dead letter for good."""
    call = Call(lambda: steering.delete_dead(id_))
    return Action("dead.delete", str(id_), _command("dead", "delete", id_, options=["--yes"]), call, task=id_)


# ── queues ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def pause_queue(name: str) -> Action[list[str]]:
    """Let no runner take tasks from a queue, which need not have had any. Raises: `InvalidArgument`."""
    fairness.check_name(name)
    call = Call(lambda: steering.pause_queue(name, paused=True))
    return Action("queue.pause", name, _command("queues", "pause", name), call)


def resume_queue(name: str) -> Action[list[str]]:
    """Let runners take tasks from a queue again. Raises: `InvalidArgument`."""
    fairness.check_name(name)
    call = Call(lambda: steering.resume_queue(name))
    return Action("queue.resume", name, _command("queues", "resume", name), call)


def make_fair(name: str, *, fair_queue: bool) -> Action[int]:
    """Make a queue fair or ordinary: the `first` step of `fairness.set_fair_by`, which takes the others."""
    fairness.check_name(name)
    call = Call(lambda: fair.set_fair(name, fair=fair_queue))
    switch = "on" if fair_queue else "off"
    return Action("queue.fair", name, _command("queues", "fair", name, switch), call, lambda _: {"fair": fair_queue})


def weigh_tenant(name: str, tenant: str, weight: int) -> Action[Any]:
    """Give a tenant so many tasks in each round of a fair queue. Raises: `InvalidArgument`."""
    fairness.check_weight(name, tenant, weight)
    call = Call(lambda: fair.weigh(name, tenant, weight))
    told = {"tenant": tenant, "weight": weight}
    return Action("queue.weight", name, _command("queues", "weight", name, tenant, weight), call, lambda _: told)


# ── schedules ────────────────────────────────────────────────────────────────────────────────────────────────────────


def add_schedule(
    planner: Planner, name: str, wishes: Changes, tenant: str, *, overwrite: bool = False
) -> Action[Schedule]:
    """Add a schedule at run time; with `overwrite`, one of that name becomes as this one is."""
    call = planner.add(name, wishes, tenant, overwrite=overwrite)
    words = [*_wish_words(planner, wishes), *(["--replace"] if overwrite else [])]
    type_ = _type_name(wishes.get("task", ""))
    return _of_schedule("add", [name, type_], tenant, call, words, _as_details)


def change_schedule(planner: Planner, name: str, wishes: Changes, tenant: str) -> Action[Schedule]:
    """Change what is given of a schedule that was added at run time."""
    words = [*(["--type", _type_name(wishes["task"])] if "task" in wishes else []), *_wish_words(planner, wishes)]
    told = {"changed": sorted(wishes)}
    return _of_schedule("change", [name], tenant, planner.change(name, wishes, tenant), words, lambda _: told)


def pause_schedule(planner: Planner, name: str, tenant: str) -> Action[Schedule]:
    """Let a schedule make no tasks until it is resumed."""
    return _of_schedule("pause", [name], tenant, planner.pause(name, tenant))


def resume_schedule(planner: Planner, name: str, tenant: str) -> Action[Schedule]:
    """Let a paused schedule go on."""
    return _of_schedule("resume", [name], tenant, planner.resume(name, tenant))


def run_schedule(planner: Planner, name: str, tenant: str) -> Action[Enqueued]:
    """Add one task as the schedule would, beside its ticks."""
    return _of_schedule(
        "run", [name], tenant, planner.run(name, tenant), details=lambda added: {"task": str(added.id), **_made(added)}
    )


def remove_schedule(planner: Planner, name: str, tenant: str) -> Action[str]:
    """Delete a schedule that was added at run time, or whose code is gone."""
    return _of_schedule("remove", [name], tenant, planner.remove(name, tenant), ["--yes"])


def _of_schedule(
    verb: str,
    names: list[str],
    tenant: str,
    call: Call[T],
    words: Collection[str] = (),
    details: Callable[[T], Mapping[str, Any]] = _nothing_to_tell,
) -> Action[T]:
    whose = [] if tenant == "default" else ["--tenant", tenant]
    command = _command("schedules", verb, *names, options=[*words, *whose])
    return Action(f"schedule.{verb}", names[0], command, call, details, tenant=tenant)


def _made(added: Enqueued) -> dict[str, Any]:
    return {} if added.created else {"created": False}


def _as_details(made: Schedule) -> dict[str, Any]:
    return {"type": made.type, "rule": made.description}


def _type_name(task: Any) -> str:
    return task if isinstance(task, str) else getattr(task, "__name__", type(task).__name__)


def _wish_words(planner: Planner, wishes: Changes) -> list[str]:
    """Return the options of `schedules add|change` that ask for the same; None takes a value away.

    Secrets in the payload are covered: whoever pastes the command puts them in.
    """
    words: list[str] = []
    frequency = wishes.get("frequency", ())
    for each in frequency if isinstance(frequency, list | tuple) else [frequency]:
        if isinstance(each, str):
            words += ["--cron", each]
        elif isinstance(each, timedelta | int | float):
            words += ["--every", f"{each.total_seconds() if isinstance(each, timedelta) else each:g}s"]
        else:
            raise InvalidArgument(f"an APScheduler trigger is for code: give a duration or a crontab, not {each!r}")
    for name, value in wishes.items():
        if name == "payload" and value is not None:
            words += ["--payload", _covered(value, whole=planner.may_hold_secrets(wishes))]
        elif name not in ("frequency", "task"):
            words += [f"--{_OPTIONS.get(name, name.replace('_', '-'))}", _as_option(value)]
    return words


def _covered(payload: Any, *, whole: bool) -> str:
    try:
        fields = json.loads(payload) if isinstance(payload, str) else dict(payload)
    except (ValueError, RecursionError):
        return MASK  # it is refused before anything is done with it
    if whole and isinstance(fields, Mapping):
        fields = dict.fromkeys(fields, MASK)
    return json.dumps(by_name(fields))


_OPTIONS = {"start_at": "start", "end_at": "end"}


def _as_option(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g}s"
    return str(value)


# ── tenants ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def map_tenant(login: str, tenant: str) -> Action[str]:
    """Let a database login see and change one tenant's rows alone."""
    command = _command("tenants", "map", login, tenant)
    return Action("tenant.map", login, command, Call(lambda: roles.map_login(login, tenant)), tenant=tenant)


def unmap_tenant(login: str) -> Action[str]:
    """Take a login its tenant; the value is whose it was."""
    command = _command("tenants", "unmap", login)
    return Action(
        "tenant.unmap",
        login,
        command,
        Call(lambda: roles.unmap_login(login)),
        lambda tenant: {"tenant": tenant},
    )
