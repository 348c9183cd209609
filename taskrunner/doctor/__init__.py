"""What is wrong: an examination of the database, the processes and what waits, each finding with its remedy.

`examine` opens connections of its own and blocks for some hundred milliseconds: the API calls it in a thread.
"""

from __future__ import annotations

from taskrunner.doctor.examination import examine
from taskrunner.doctor.values import Finding, Report, Severity, Unseen

__all__ = ["Finding", "Report", "Severity", "Unseen", "examine"]
