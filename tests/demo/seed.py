"""A shop's busy day in the tables: what has ended, what died and why, what waits, what people steered.

The past is written as rows, by the clock of the database; the present is enqueued by the door.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import ModuleType
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from taskrunner.flow import chain, group
from taskrunner.queue import TaskQueue
from taskrunner.registry import Registry

# How often a type runs in a minute at noon, and how long that takes, in seconds.
RHYTHM = {
    "SendEmail": ("mail", 40, 0.2),
    "ChargeCard": ("payments", 12, 0.8),
    "BuildInvoice": ("payments", 11, 1.5),
    "ResizeImage": ("media", 18, 2.2),
    "ImportCatalog": ("imports", 1, 45.0),
    "SyncStock": ("imports", 1, 3.5),
}

# Day and night, some noise that is the same each time, and one bad quarter of an hour at the bank.
STATS = """
WITH quarter AS (SELECT date_trunc('minute', taskrunner.clock()) - interval '42 minutes' AS began),
said AS (
    SELECT m.minute, r.queue, r.type, o.outcome, r.seconds,
           greatest(0, floor((hashtext(o.outcome || r.type || m.minute) & 1023) / 1024.0
             + r.often * o.share * (0.65 + 0.35 * sin(extract(epoch FROM m.minute) / 13750))
             * (0.7 + 0.6 * (hashtext(r.type || m.minute) & 1023) / 1023.0)
             * CASE WHEN o.outcome IN ('dead', 'retried') AND r.type = 'ChargeCard'
                     AND m.minute BETWEEN q.began AND q.began + interval '11 minutes' THEN 20 ELSE 1 END)) AS count
      FROM generate_series(date_trunc('minute', taskrunner.clock() - %(span)s), taskrunner.clock(),
                           interval '1 minute') AS m (minute)
     CROSS JOIN quarter q
     CROSS JOIN unnest(%(queues)s::text[], %(types)s::text[], %(often)s::float[], %(seconds)s::float[])
                  AS r (queue, type, often, seconds)
     CROSS JOIN (VALUES ('succeeded', 0.96), ('retried', 0.03), ('ignored', 0.008), ('dead', 0.012))
                  AS o (outcome, share)
)
INSERT INTO taskrunner.task_stats (minute, runner_id, tenant, queue, type, outcome, count, run_seconds, wait_seconds,
       run_histogram, wait_histogram)
SELECT s.minute, %(runner)s, 'default', s.queue, s.type, s.outcome, s.count, s.count * s.seconds, s.count * 0.12,
       ARRAY(SELECT CASE b WHEN x.bucket THEN s.count - 2 * (s.count / 10)::int
                           WHEN x.bucket - 1 THEN (s.count / 10)::int WHEN x.bucket + 1 THEN (s.count / 10)::int
                           ELSE 0 END FROM generate_series(1, 13) b ORDER BY b),
       ARRAY(SELECT CASE b WHEN 4 THEN s.count - (s.count / 10)::int WHEN 6 THEN (s.count / 10)::int ELSE 0 END
               FROM generate_series(1, 13) b ORDER BY b)
  FROM said s
 CROSS JOIN LATERAL (SELECT least(12, width_bucket(s.seconds, ARRAY[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60,
                            300, 3600]::float[]) + 1) AS bucket) x
 WHERE s.count > 0
ON CONFLICT DO NOTHING
"""

ENDED = """
INSERT INTO taskrunner.task_history (id, finished_at, started_at, maturity_at, created_at, claim_no, run_seconds,
       priority, tries, crashes, max_retries, tenant, queue, type, state, runner_id, payload, meta, errors, result)
VALUES (%(id)s, %(finished_at)s, %(started_at)s, %(created_at)s, %(created_at)s, 1, %(run_seconds)s, 100, %(tries)s,
        0, 3, %(tenant)s, %(queue)s, %(type)s, %(state)s, %(runner)s, %(payload)s, '{}', %(errors)s, %(result)s)
"""

DEAD = """
INSERT INTO taskrunner.dead_letter (id, finished_at, started_at, maturity_at, created_at, claim_no, run_seconds,
       priority, tries, crashes, max_retries, tenant, queue, type, runner_id, payload, meta, errors)
VALUES (%(id)s, %(finished_at)s, %(started_at)s, %(created_at)s, %(created_at)s, 3, %(run_seconds)s, 100, %(tries)s,
        0, 2, %(tenant)s, %(queue)s, %(type)s, %(runner)s, %(payload)s, '{}', %(errors)s)
"""

RETRYING = """
INSERT INTO taskrunner.task (id, maturity_at, created_at, claim_no, tries, tenant, queue, type, payload, errors)
VALUES (%(id)s, %(now)s + interval '11 minutes', %(created_at)s, 2, %(tries)s, %(tenant)s, %(queue)s, %(type)s,
        %(payload)s, %(errors)s)
"""

TRACEBACK = """Traceback (most recent call last):
  File "/srv/shop/tasks/{file}.py", line {line}, in run
    {code}
  File "/srv/shop/clients/{client}.py", line 88, in call
    raise {error}
{error_name}: {text}
"""
NAMES = ("ada", "grace", "linus", "margaret", "edsger", "barbara", "donald", "radia")
TENANTS = ("default", "default", "default", "acme", "globex")


@dataclass
class Filled:
    """Tasks to look at, by what they are."""

    dead: list[UUID]
    retrying: list[UUID]
    ended: list[UUID]
    flow: list[UUID]
    waiting: list[UUID]
    later: UUID
    running: UUID


class Past:
    """Makes rows of what has been, the same each time but for the clock."""

    def __init__(self, now: datetime) -> None:
        self._now, self._chance = now, random.Random(5)  # noqa: S311 - made-up rows
        self.runner = self._id(timedelta(hours=26))

    def _id(self, ago: timedelta) -> UUID:
        """A UUIDv7 (RFC 9562) of that time."""
        ms = int((self._now - ago).timestamp() * 1000)
        low = self._chance.getrandbits(62)
        return UUID(int=ms << 80 | 7 << 76 | self._chance.getrandbits(12) << 64 | 2 << 62 | low)

    def row(self, type_: str, ago: timedelta, payload: dict[str, Any], **columns: Any) -> dict[str, Any]:
        """Return a task's columns: made so long ago, begun at once."""
        queue, _, seconds = RHYTHM[type_]
        took = seconds * (0.6 + self._chance.random())
        created = self._now - ago
        return {
            "id": self._id(ago),
            "created_at": created,
            "started_at": created + timedelta(milliseconds=self._chance.randint(20, 400)),
            "finished_at": created + timedelta(seconds=0.4 + took),
            "run_seconds": took,
            "type": type_,
            "queue": queue,
            "tenant": self._chance.choice(TENANTS),
            "payload": Jsonb(payload),
            "runner": self.runner,
            "tries": 0,
            "errors": Jsonb([]),
            "state": "succeeded",
            "result": Jsonb(None),
            "now": self._now,
            **columns,
        }

    def errors(self, ago: timedelta, message: str, tries: int, **where: Any) -> dict[str, Any]:
        """Return the errors of so many tries, ten minutes apart."""
        name, _, text = message.partition(": ")
        trace = TRACEBACK.format(**where, error=f"{name}(message)", error_name=name, text=text)
        began = self._now - ago
        entries = [
            {
                "at": (began + timedelta(minutes=10 * n)).isoformat(),
                "runner": str(self.runner),
                "try": n + 1,
                "message": message,
                "traceback": trace,
            }
            for n in range(tries)
        ]
        return {"errors": Jsonb(entries)}

    def ended(self, count: int) -> Iterator[dict[str, Any]]:
        """Yield tasks that ended within the last hours."""
        for n in range(count):
            ago = timedelta(seconds=20 + n * 37)
            who = self._chance.choice(NAMES)
            if n % 4 == 3:
                order = 48_000 + n
                yield self.row("BuildInvoice", ago, {"order": order}, result=Jsonb(f"invoice-{order}.pdf"))
            elif n % 11 == 5:
                yield self.row("ResizeImage", ago, {"article": 9000 + n, "sizes": [160, 640]}, state="cancelled")
            else:
                payload = {"to": f"{who}@example.org", "subject": f"Your order {48_000 + n} is on its way"}
                yield self.row("SendEmail", ago, payload, result=Jsonb({"message_id": f"<{n}@shop.example.org>"}))

    def dead(self) -> Iterator[dict[str, Any]]:
        """Yield dead letters of a few kinds of error."""
        charge = {"file": "payments", "line": 41, "code": "await bank.authorise(self.order)", "client": "bank"}
        for n in range(14):
            ago = timedelta(minutes=41 - n * 0.7)
            reason = ("insufficient funds", "card expired")[n % 3 == 2]
            message = f"CardDeclined: order {48_100 + n}: {reason}"
            payload = {"order": 48_100 + n, "amount": f"{19 + n * 7}.90", "currency": "EUR", "declined": reason}
            yield self.row("ChargeCard", ago, payload, tries=1, **self.errors(ago, message, 1, **charge))
        mail = {"file": "mail", "line": 27, "code": "await smtp.send(message)", "client": "smtp"}
        for n, who in enumerate(NAMES[:5]):
            ago = timedelta(hours=3, minutes=7 * n)
            message = f"SMTPRecipientsRefused: 550 5.1.1 <{who}@old-domain.example>: user unknown"
            payload = {"to": f"{who}@old-domain.example", "subject": "We miss you"}
            yield self.row("SendEmail", ago, payload, tries=6, **self.errors(ago, message, 6, **mail))
        stock = {"file": "stock", "line": 19, "code": "rows = await warehouse.call('/v2/stock')", "client": "warehouse"}
        for n in range(3):
            ago = timedelta(hours=5 + n)
            message = "SupplierDown: Rotterdam: connection timed out after 10 s"
            yield self.row(
                "SyncStock", ago, {"warehouse": "Rotterdam"}, tries=3, **self.errors(ago, message, 3, **stock)
            )

    def retrying(self) -> Iterator[dict[str, Any]]:
        """Yield tasks that failed and will be tried again in some minutes."""
        where = {"file": "catalog", "line": 63, "code": "await supplier.fetch(page)", "client": "supplier"}
        for n, supplier in enumerate(("Northwind", "Contoso", "Initech")):
            ago = timedelta(minutes=25 + 4 * n)
            message = f"SupplierDown: {supplier}: HTTP 503 from /catalogue?page={n + 3}"
            payload = {"supplier": supplier, "rows": 4000}
            yield self.row("ImportCatalog", ago, payload, tries=2, **self.errors(ago, message, 2, **where))


def fill(url: str, shop: ModuleType, registry: Registry, *, span: timedelta = timedelta(hours=4)) -> Filled:
    """Fill the tables; a `running` import waits for the file `supplier`, once there is a runner for `imports`."""
    with psycopg.connect(url, autocommit=True) as conn:
        row = conn.execute("SELECT taskrunner.clock()").fetchone()
        assert row is not None
        past = Past(row[0])
        _count(conn, past, span)
        rows = {"ended": list(past.ended(120)), "dead": list(past.dead()), "retrying": list(past.retrying())}
        with conn.cursor() as cursor:
            cursor.executemany(ENDED, rows["ended"])
            cursor.executemany(DEAD, rows["dead"])
            cursor.executemany(RETRYING, rows["retrying"])
        conn.execute("INSERT INTO taskrunner.queue_settings (queue, paused, paused_at) VALUES ('media', true, now())")
    made = {name: [found["id"] for found in found_rows] for name, found_rows in rows.items()}
    with TaskQueue.connect(url, registry=registry) as queue:
        return _enqueue(queue, shop, made)


def _count(conn: psycopg.Connection[Any], past: Past, span: timedelta) -> None:
    queues, often, seconds = zip(*RHYTHM.values(), strict=True)
    values = {"queues": queues, "types": RHYTHM, "often": often, "seconds": seconds}
    lists = {name: list(value) for name, value in values.items()}
    conn.execute(STATS, {**lists, "span": span, "runner": past.runner})


def _enqueue(queue: TaskQueue, shop: ModuleType, made: dict[str, list[UUID]]) -> Filled:
    waiting = [
        queue.add(shop.ResizeImage(article=7000 + n), priority=100 + n % 3, tenant=TENANTS[n % 5]).id for n in range(9)
    ]
    later = queue.add(shop.SendEmail(to="ada@example.org", subject="Your basket misses you"), delay=86_400, key="ada")
    steps = group(shop.ChargeCard(order=48_200, amount="59.00"), shop.ResizeImage(article=7100))
    flow = queue.add_flow(
        chain(steps, shop.BuildInvoice(order=48_200), shop.SendEmail(to="grace@example.org", subject="Your invoice"))
    )
    running = queue.add(shop.ImportCatalog(supplier="Acme Tools", rows=18_000, hold="supplier"))
    queue.schedules.add(
        "newsletter", shop.SendEmail(to="list@example.org", subject="News of the week"), "0 9 * * mon",
        timezone="Europe/Berlin",
    )  # fmt: skip
    queue.schedules.pause("newsletter")
    return Filled(**made, flow=flow, waiting=waiting, later=later.id, running=running.id)
