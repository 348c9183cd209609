"""What an examination has found, and why a task does not run, for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from taskrunner.console.terminal import cell

if TYPE_CHECKING:
    from taskrunner.doctor import Finding, Report

_STYLES = {"error": "bold red", "warning": "bold yellow", "info": "bold cyan"}
_WORDS = {"error": "ERROR", "warning": "WARNING", "info": "NOTE"}


def show_findings(report: Report) -> RenderableType:
    """Return the findings as blocks of lines, the worst first, and what could not be looked at."""
    parts: list[RenderableType] = []
    for finding in report.findings:
        parts += [*_finding(finding), Text()]
    for each in report.unseen:
        parts.append(cell(f"not seen: {each.check}: {each.reason}", "dim", fold=True))
    return Group(*parts, _verdict(report))


def _finding(finding: Finding) -> Iterator[RenderableType]:
    yield Text.assemble(
        (_WORDS[finding.severity], _STYLES[finding.severity]), " ", (finding.id, "bold"), ": ", cell(finding.summary)
    )
    for line in finding.evidence:
        yield cell(f"  · {line}", fold=True)
    yield cell(f"  so: {finding.consequence}", fold=True)
    yield cell(f"  do: {finding.remedy}", fold=True)
    for command in finding.commands:
        yield cell(f"      {command}", "green", fold=True)


def _verdict(report: Report) -> Text:
    counts = {
        severity: sum(finding.severity == severity for finding in report.findings) for severity in ("error", "warning")
    }
    said = [f"{count} {word}{'' if count == 1 else 's'}" for word, count in counts.items() if count]
    checked = f"{len(report.checks)} checks in {report.seconds:.2g} s"
    if report.healthy:
        return cell(f"all is well: {checked}", "green")
    return cell(f"{', '.join(said)}: {checked}", "bold")
