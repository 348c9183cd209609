"""`/ui/queues`: what waits in each, who takes from it; pause, resume, fairness and weights."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from taskrunner import actions, reads
from taskrunner.api.door import door_of
from taskrunner.api.kept import kept
from taskrunner.api.security import who_of
from taskrunner.api.turns import make_fair
from taskrunner.api.ui.frame import ask, check_writes, did, do, form_of, page
from taskrunner.api.ui.questions import Question, address, named, settle
from taskrunner.errors import InvalidArgument
from taskrunner.reads import Status


async def queues(request: Request) -> Response:
    """Return the page."""
    door = door_of(request)
    status: Status = await kept(request, "status", lambda: door.run(reads.status))
    return page(request, "queues.html", title="Queues", now=await door.run(reads.now), queues=status.queues)


async def pause(request: Request) -> Response:
    """Ask, and pause a queue."""
    name = named(request, "queue")
    return await settle(request, Question(
        actions.pause_queue(name), f"Pause the queue {name}?",
        "No runner takes tasks from it until it is resumed. What runs goes on, and tasks can be added.",
        "Pause", lambda _: f"Queue {name} is paused.",
    ))  # fmt: skip


async def resume(request: Request) -> Response:
    """Ask, and resume a queue."""
    name = named(request, "queue")
    return await settle(request, Question(
        actions.resume_queue(name), f"Resume the queue {name}?", "Runners take tasks from it again, at once.",
        "Resume", lambda _: f"Queue {name} is open.",
    ))  # fmt: skip


async def fair(request: Request) -> Response:
    """Ask, and make a queue fair or ordinary."""
    name, wanted = named(request, "queue"), request.query_params.get("fair") != "off"
    action = actions.make_fair(name, fair_queue=wanted)
    if request.method == "POST":
        check_writes(request)
        settled = await make_fair(door_of(request), name, f"ui:{who_of(request).name}", fair_queue=wanted, patience=2)
        later = "" if settled else " Transactions are open that began before: say it again once they have ended."
        word = "fair" if wanted else "ordinary"
        return await did(request, f"Queue {name} is {word}.{later}", command=action.command)
    text = (
        "Its tenants take turns, however many tasks one of them has waiting."
        if wanted
        else "Its tasks are taken by priority and maturity, whosoever they are."
    )
    title = f"Make the queue {name} {'fair' if wanted else 'ordinary'}?"
    return await settle(request, Question(action, title, text, "Make it so", lambda _: ""))


async def weigh(request: Request) -> Response:
    """Ask whom to give how many turns, and do it; what cannot be used is asked for again, as it was typed."""
    check_writes(request)
    name = named(request, "queue")
    if request.method != "POST":
        return _weigh(request, name)
    form = await form_of(request)
    tenant, text = form.get("tenant", [""])[0].strip(), form.get("weight", [""])[0].strip()
    try:
        action = actions.weigh_tenant(name, tenant, _weight(text))
    except InvalidArgument as error:
        return _weigh(request, name, tenant, text, str(error))
    await do(request, action)
    return await did(request, f"Tenant {tenant} has {text} of each round of queue {name}.", command=action.command)


def _weigh(request: Request, name: str, tenant: str = "", weight: str = "1", error: str = "") -> Response:
    of_tenant = error if not tenant else ""
    fields = (
        {"name": "tenant", "label": "Tenant", "required": True, "value": tenant, "error": of_tenant},
        {
            "name": "weight", "label": "Tasks in each round", "required": True, "value": weight, "kind": "number",
            "error": "" if of_tenant else error,
        },
    )  # fmt: skip
    return ask(
        request, actions.weigh_tenant(name, tenant or "default", 1), title=f"Turns in the queue {name}",
        text="A tenant has so many tasks in each round; everybody has 1.", verb="Set", fields=fields,
        address=address(request), status=422 if error else 200,
    )  # fmt: skip


def _weight(text: str) -> int:
    if not text.isdecimal() or len(text) > 4:
        raise InvalidArgument(f"a weight is a whole number from 1 to 1000, not {text!r}")
    return int(text)


ROUTES = (("/ui/queues", queues),)
FORMS = (
    ("/ui/queues/pause", pause),
    ("/ui/queues/resume", resume),
    ("/ui/queues/fair", fair),
    ("/ui/queues/weight", weigh),
)
