"""What people look at: tasks in any state, counts, runners, queues and schedules, as values.

Every function returns an `Op`, or a generator of them, so that the command line and the API read by the same code,
each with its own pump. Nothing here changes a row, and nothing counts a big table: what has ended is counted from
`task_stats`.
"""

from __future__ import annotations

from taskrunner.reads.answer import Why
from taskrunner.reads.audit import AuditEntry, AuditFilter, AuditPage, audit_of, audit_trail
from taskrunner.reads.charts import RANGES, Chart, ChartFilter, chart
from taskrunner.reads.dead import DeadGroup, DeadGroups, dead_groups
from taskrunner.reads.figures import known_types, now, recent, stats, status
from taskrunner.reads.fleet import at_work, live_runners, queues, runners, unattended
from taskrunner.reads.flows import FlowTask, FlowView, TaskDetail, detail, flow
from taskrunner.reads.log import LAST_LINES, LogLine, LogPage, last_lines, log_lines
from taskrunner.reads.reason import why
from taskrunner.reads.system import Server, TableSize, server, table_sizes
from taskrunner.reads.tasks import (
    ROOM,
    dead_letter_by_id,
    dead_letters,
    ended_tasks,
    list_tasks,
    retrying,
    successor_by_id,
    task_by_id,
)
from taskrunner.reads.timetable import PAGE, SchedulePage, schedule_named, schedule_page, schedules
from taskrunner.reads.views import (
    AtWork,
    Counts,
    DeadView,
    Page,
    Queue,
    Recent,
    Runner,
    Schedule,
    Status,
    TaskFilter,
    TaskView,
    TypeCounts,
)

__all__ = [
    "LAST_LINES",
    "PAGE",
    "RANGES",
    "ROOM",
    "AtWork",
    "AuditEntry",
    "AuditFilter",
    "AuditPage",
    "Chart",
    "ChartFilter",
    "Counts",
    "DeadGroup",
    "DeadGroups",
    "DeadView",
    "FlowTask",
    "FlowView",
    "LogLine",
    "LogPage",
    "Page",
    "Queue",
    "Recent",
    "Runner",
    "Schedule",
    "SchedulePage",
    "Server",
    "Status",
    "TableSize",
    "TaskDetail",
    "TaskFilter",
    "TaskView",
    "TypeCounts",
    "Why",
    "at_work",
    "audit_of",
    "audit_trail",
    "chart",
    "dead_groups",
    "dead_letter_by_id",
    "dead_letters",
    "detail",
    "ended_tasks",
    "flow",
    "known_types",
    "last_lines",
    "list_tasks",
    "live_runners",
    "log_lines",
    "now",
    "queues",
    "recent",
    "retrying",
    "runners",
    "schedule_named",
    "schedule_page",
    "schedules",
    "server",
    "stats",
    "status",
    "successor_by_id",
    "table_sizes",
    "task_by_id",
    "unattended",
    "why",
]
