"""PostgreSQL's own pgbench: what the server gives when nothing but SQL is in the way."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from benchmarks.harness.processes import BenchError, Command, ask
from benchmarks.harness.server import Bench


def single_inserts(bench: Bench, url: str, statement: str, rows: int) -> float:
    """Return commits a second of one client that runs the statement again and again."""
    return transactions(bench, url, statement, rows)


def transactions(bench: Bench, url: str, script: str, count: int, clients: int = 1) -> float:
    """Run the script `count` times in each client, prepared; return how often a second, connecting not counted."""
    program = bench.cluster.binaries / "pgbench"
    if not program.exists():
        raise BenchError(f"there is no pgbench beside the server, in {bench.cluster.binaries}")
    parts = urlsplit(url)
    where = {key: values[0] for key, values in parse_qs(parts.query).items()}
    environment = {
        "PGHOST": where["host"],
        "PGPORT": where.get("port", "5432"),
        "PGUSER": unquote(parts.username or ""),
        "PGPASSWORD": unquote(parts.password or ""),
        "PGDATABASE": parts.path.lstrip("/"),
    }
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        file = Path(name, "script.sql")
        file.write_text(script, encoding="utf-8")
        options = ("-n", "-M", "prepared", "-c", str(clients), "-j", str(clients), "-t", str(count), "-f", str(file))
        said = ask(Command((str(program), *options), environment), 120)
    found = re.search(r"^tps = ([\d.]+) \(without initial connection time\)", said, re.M)
    if found is None:
        raise BenchError(f"pgbench printed no rate: {said[-200:]}")
    return float(found[1])
