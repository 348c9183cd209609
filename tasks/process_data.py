"""A CSV file, grouped and summed in a child process."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from taskrunner import Task, register_task

DATA = Path(__file__).parent / "data"
REPORT_EVERY = 1000  # rows


@register_task("ProcessData", executor="process", max_retries=1, timeout=timedelta(minutes=5))
class ProcessData(Task):
    """Sum one column of a CSV file by the values of another.

    The work keeps a CPU busy, so it has a process of its own: other tasks go on, and a timeout can kill it.
    """

    file: str = "sales.csv"  # relative to tasks/data
    group_by: str = "region"
    sum_of: str = "amount"

    def run(self) -> dict[str, Any]:
        sums: dict[str, Decimal] = {}
        rows = 0
        for group, amount in self._rows():
            sums[group] = sums.get(group, Decimal(0)) + amount
            rows += 1
            if rows % REPORT_EVERY == 0:
                self.context.progress(rows, message=f"{len(sums)} groups")
        # As text: JSON has no exact decimals.
        return {"rows": rows, "sums": {group: str(total) for group, total in sorted(sums.items())}}

    def _rows(self) -> Iterator[tuple[str, Decimal]]:
        with (DATA / self.file).open(newline="", encoding="utf-8") as source:
            reader = csv.DictReader(source)
            missing = {self.group_by, self.sum_of} - set(reader.fieldnames or ())
            if missing:
                raise ValueError(f"{self.file} has no column {', '.join(sorted(missing))}")
            for row in reader:
                try:
                    yield row[self.group_by], Decimal(row[self.sum_of])
                except (InvalidOperation, TypeError):
                    value = row[self.sum_of]
                    raise ValueError(f"{self.file}, line {reader.line_num}: {value!r} is no number") from None
