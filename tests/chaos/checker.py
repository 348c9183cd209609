"""The judge: reads a history and says which invariants it breaks. Pure: no database, no clock, no engine.

Its material are events (see `history` for the workload's, `record` for the database's own). Each rule is one function
over them; what it yields are violations, in Jepsen's words: lost, unexpected, duplicated.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.chaos.history import Event

OWNER = ("taskrunner runner",)
"""Sessions by which a runner writes of its own claims; `… aside` and others write of claims that are not theirs."""

UNDERTAKER = "taskrunner supervisor"
"""It releases what a child held that it has killed itself; the lease of that one goes on for nobody."""

COUNTED = ("succeeded", "ignored", "cancelled", "dead")
SLACK = 0.05
"""Seconds by which two readings of one machine's clock may seem swapped: a process may wait between both."""


class Violation(NamedTuple):
    """A broken invariant: its number in the list of them, the task or thing, and what happened."""

    rule: str
    subject: str
    text: str


@dataclass
class Evidence:
    """The events of one run, sorted for the rules. `crash_limit` is the setting of the run."""

    events: Iterable[Event]
    crash_limit: int = 3
    by_task: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    ends: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    seen: dict[str, dict[str, list[Event]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    rows: list[Event] = field(default_factory=list)
    leases: list[Event] = field(default_factory=list)
    tables: Event = field(default_factory=lambda: {"live": [], "ended": [], "stats": [], "schedules": [], "leaks": []})

    def __post_init__(self) -> None:
        """Sort the events: the database's by number, the workload's by kind and task."""
        self.events = list(self.events)
        for event in self.events:
            match event["what"]:
                case "row":
                    self.rows.append(event)
                case "end":
                    self.ends[event["task"]].append(event)
                case "lease":
                    self.leases.append(event)
                case "tables":
                    self.tables = event
                case what if "task" in event:
                    self.seen[what][event["task"]].append(event)
        self.rows.sort(key=lambda event: event["no"])
        for row in self.rows:
            self.by_task[row["task"]].append(row)

    def terminal(self, task: str) -> list[Event]:
        """Return the task's terminal rows."""
        return self.ends.get(task, [])

    def saw(self, what: str, task: str) -> list[Event]:
        """Return the workload's events of a kind and a task."""
        return self.seen.get(what, {}).get(task, [])

    def of(self, what: str, task: str, claim_no: int) -> list[Event]:
        """Return the workload's events of one claim."""
        return [event for event in self.saw(what, task) if event.get("claim_no") == claim_no]

    def taken_back(self) -> Iterator[Event]:
        """Yield the changes by which a running task was running no more."""
        for row in self.rows:
            if row["old"] and row["old"]["state"] == "running" and (row["op"] == "DELETE" or not _running(row["new"])):
                yield row

    def claims(self) -> Iterator[Event]:
        """Yield the changes by which somebody took a task."""
        for row in self.rows:
            if (
                row["new"]
                and row["op"] == "UPDATE"
                and _running(row["new"])
                and _claim(row["new"]) != _claim(row["old"])
            ):
                yield row


def _running(image: Event) -> bool:
    return bool(image["state"] == "running")


def _claim(image: Event) -> tuple[Any, Any]:
    return image["runner"], image["claim_no"]


Rule = Callable[[Evidence], Iterator[Violation]]


def lost_and_doubled(evidence: Evidence) -> Iterator[Violation]:
    """I1, I2: an acknowledged enqueue ends in exactly one terminal row, an unacknowledged one in none or one."""
    live = {row["task"] for row in evidence.tables["live"]}
    for task, acknowledgements in evidence.seen["enqueue"].items():
        if any(event["ack"] == "yes" for event in acknowledgements):
            if task in live:
                yield Violation("I1", task, "acknowledged, and has not ended")
            elif not evidence.terminal(task):
                yield Violation("I1", task, "acknowledged, and lost")
    for task, changes in evidence.by_task.items():
        ops, ends = Counter(row["op"] for row in changes), len(evidence.terminal(task))
        births = ops["INSERT"] - max(0, ops["DELETE"] - ends)  # the repeat of an enqueue is taken back where it began
        rule = "I1" if any(event["ack"] == "yes" for event in evidence.saw("enqueue", task)) else "I2"
        if ends > 1 or (ends and task in live):
            yield Violation(rule, task, f"{ends} terminal rows{', and live' if task in live else ''}")
        if births > 1:
            yield Violation("I2", task, f"inserted {births} times")
        if not ends and task not in live:
            yield Violation("I1", task, "was there, and left without a terminal row")


def leases(evidence: Evidence) -> Iterator[Violation]:
    """I3: one live lease a task: nobody takes what another runs and has a lease for; ended leases stay ended."""
    for row in evidence.claims():
        if _running(row["old"]):
            yield Violation("I3", row["task"], "claimed while it was running")
        if row["new"]["claim_no"] <= row["old"]["claim_no"]:
            yield Violation("I3", row["task"], f"claim number {row['new']['claim_no']} does not rise")
        if row["at"] + SLACK < row["new"]["due_at"]:
            yield Violation("I3", row["task"], f"claimed {row['new']['due_at'] - row['at']:.3f} s before its maturity")
    for row in evidence.taken_back():
        alive = row["lease_left"] is not None and row["lease_left"] > 0
        if alive and row["by"] not in (*OWNER, UNDERTAKER):
            yield Violation("I3", row["task"], f"taken by {row['by']} from a runner with a lease")
    for lease in evidence.leases:
        if lease["before"] <= 0 < lease["left"]:
            yield Violation("I3", lease["runner"], "a lease that had ended was revived")


def stale_writes(evidence: Evidence) -> Iterator[Violation]:
    """I4: a claim succeeds only after its own run has said so, and a try is failed only by its own run."""
    for task, ends in evidence.ends.items():
        for end in ends:
            said = evidence.of("done", task, end["claim_no"])
            if end["state"] == "succeeded" and not any(done["at"] <= end["at"] + SLACK for done in said):
                yield Violation("I4", task, f"claim {end['claim_no']} was ended by somebody else's run")
    for row in evidence.taken_back():
        failed = row["new"] and row["new"]["tries"] > row["old"]["tries"]
        if failed and not evidence.of("failed", row["task"], row["old"]["claim_no"]):
            yield Violation("I8", row["task"], f"a try was charged though claim {row['old']['claim_no']} did not fail")


def effects(evidence: Evidence) -> Iterator[Violation]:
    """I5: an effect a run, a run a claim; a task that nothing has hit has one."""
    back = Counter(row["task"] for row in evidence.taken_back() if row["op"] != "DELETE")
    for task, found in evidence.seen["effect"].items():
        if len(found) > 1 + back[task]:
            yield Violation("I5", task, f"{len(found)} effects, though it was taken back {back[task]} times")
        for claim_no, count in Counter(event["claim_no"] for event in found).items():
            if count > 1:
                yield Violation("I5", task, f"{count} effects of claim {claim_no}")
    for task, ends in evidence.ends.items():
        if ends[0]["state"] == "succeeded" and not evidence.saw("effect", task):
            yield Violation("I5", task, "succeeded without its effect")


def ticks(evidence: Evidence) -> Iterator[Violation]:
    """I6: the ticks of an interval are all points of its grid up to the next one: none lost, doubled or early."""
    for schedule in evidence.tables["schedules"]:
        rows = [row for row in evidence.rows if row["schedule"] == schedule["id"] and row["op"] == "INSERT"]
        period, base = float(schedule["trigger"].split()[1]), min((row["tick_at"] or 0.0 for row in rows), default=0.0)
        times = [round((row["tick_at"] - base) / period) for row in rows if row["tick_at"] is not None]
        for tick, count in Counter(times).items():
            if count > 1:
                yield Violation("I6", schedule["id"], f"tick {tick} was doubled")
        following = round((schedule["next_tick_at"] - base) / period) if times else 0
        for tick in sorted(set(range(following)) - set(times)):
            yield Violation("I6", schedule["id"], f"tick {tick} was lost")
        for row in rows:
            if row["tick_at"] is not None and row["at"] + SLACK < row["tick_at"]:
                yield Violation("I6", schedule["id"], f"a tick {row['tick_at'] - row['at']:.3f} s early")


def agreement(evidence: Evidence) -> Iterator[Violation]:
    """I7: the endings that were noted, the tables of ended tasks and the counts are the same numbers."""
    noted = Counter((end["type"], end["state"]) for ends in evidence.ends.values() for end in ends)
    for name in ("ended", "stats"):
        said = {(row["type"], row["state"]): int(row["count"]) for row in evidence.tables[name]}
        for key in sorted({*noted, *(key for key in said if key[1] in COUNTED)}):
            if noted[key] != said.get(key, 0):
                yield Violation("I7", " ".join(key), f"{noted[key]} were noted, {name} says {said.get(key, 0)}")
    retried = Counter(row["type"] for row in evidence.taken_back() if row["new"] and _tries(row) == 1)
    said = {row["type"]: int(row["count"]) for row in evidence.tables["stats"] if row["state"] == "retried"}
    for type_ in sorted({*retried, *said}):
        if retried[type_] != said.get(type_, 0):
            yield Violation("I7", type_, f"{retried[type_]} retries were noted, stats says {said.get(type_, 0)}")


def _tries(row: Event) -> int:
    return int(row["new"]["tries"] - row["old"]["tries"])


def charges(evidence: Evidence) -> Iterator[Violation]:
    """I8: a failed run costs one try, a deadly task has `crash_limit` runs, a crash is charged by a rescue alone."""
    for row in evidence.taken_back():
        if not row["new"]:
            continue
        failed = evidence.of("failed", row["task"], row["old"]["claim_no"])
        if failed and row["by"] in OWNER and row["new"]["due_at"] != row["old"]["due_at"] and _tries(row) == 0:
            yield Violation("I8", row["task"], f"the failure of claim {row['old']['claim_no']} was not counted")
        if not 0 <= row["new"]["crashes"] - row["old"]["crashes"] <= 1:
            yield Violation("I8", row["task"], "more than one crash was charged at once")
    for task, ends in evidence.ends.items():
        if any(end["crashes"] > evidence.crash_limit for end in ends):
            yield Violation("I8", task, f"more than {evidence.crash_limit} crashes")
    for task, runs in evidence.seen["run"].items():
        if runs[0].get("deadly") and len(runs) > evidence.crash_limit:
            yield Violation("I8", task, f"it killed {len(runs)} runners")


def unique_keys(evidence: Evidence) -> Iterator[Violation]:
    """I9: at most one live task a unique key."""
    holders: dict[str, set[str]] = defaultdict(set)
    for row in evidence.rows:
        if row["key"] is None:
            continue
        if row["op"] == "INSERT":
            holders[row["key"]].add(row["task"])
            if len(holders[row["key"]]) > 1:
                yield Violation("I9", row["key"], f"{len(holders[row['key']])} live tasks")
        elif row["op"] == "DELETE":
            holders[row["key"]].discard(row["task"])


def leaks(evidence: Evidence) -> Iterator[Violation]:
    """I12: afterwards nothing runs, no session, lock or process is left."""
    for row in evidence.tables["live"]:
        if row["state"] == "running":
            yield Violation("I12", row["task"], "still running when everybody has gone")
    for leak in evidence.tables["leaks"]:
        yield Violation("I12", "", leak)


RULES: tuple[Rule, ...] = (
    lost_and_doubled,
    leases,
    stale_writes,
    effects,
    ticks,
    agreement,
    charges,
    unique_keys,
    leaks,
)


def check(events: Iterable[Event], *, crash_limit: int = 3) -> list[Violation]:
    """Return every violation of the invariants; an empty list means that the history could not be better."""
    evidence = Evidence(events, crash_limit)
    return [violation for rule in RULES for violation in rule(evidence)]
