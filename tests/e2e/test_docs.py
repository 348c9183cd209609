"""Every block of the README and the documentation is run, or checked in the way that its language allows.

A page is one session in a fresh project, top to bottom:

- ```` ```python title="tasks/mail.py" ```` and any other block with a title is written to that file;
- a `python` block without a title is run as a program; `toml`, `json` and `yaml` are parsed;
- in a `console` block, lines after `$ ` are run and must succeed. Lines below are what it prints, compared
  in order: figures, blanks and colours do not count, `…` stands for anything. An id that is shown is that of the real
  run in later commands. `taskrunner start …` goes on in the background, is drained at the end of the page, and must
  leave with 0; of `make …` it is checked that the target exists;
- `<!-- not run: reason -->` above a block excludes it, `<!-- private server -->` runs the page without DATABASE_URL.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
import yaml

from taskrunner.testing.database import Database

ROOT = Path(__file__).parents[2]
GENERATED = "<!-- Made from the code"
PRIVATE = "<!-- private server -->"
PAGES = [
    page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if GENERATED not in page.read_text(encoding="utf-8")
]
NOT_RUN = {
    "README.md": ["installs from the internet"],
    "docs/how-to/deploy.md": ["needs systemd and root", "needs Docker", "needs Docker"],
    "docs/how-to/history.md": ["there is no archive yet"],
    "docs/how-to/search.md": ["there is no server on this page"],
    "docs/tutorial/first-task.md": ["installs from the internet"],
}
"""Blocks that are left out, page by page, with the reasons that the pages give."""

FENCE = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]+?) -->\n+)?"
    r"^```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$",
    re.M | re.S,
)
UUID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}\b")
ALIVE = "SELECT count(*) FROM taskrunner.runner WHERE kind = 'runner' AND lease_until > taskrunner.clock()"
PATIENCE = 60  # seconds


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    language: str
    title: str | None
    text: str
    reason: str | None
    line: int


def blocks(page: Path) -> list[Block]:
    """Return the page's blocks, in order."""
    text = page.read_text(encoding="utf-8")
    found = [
        Block(one["language"], one["title"], one["text"], one["reason"], text.count("\n", 0, one.start("text")))
        for one in FENCE.finditer(text)
    ]
    assert len(found) * 2 == len(re.findall(r"^```", text, re.M)), f"{page}: a fence is not closed, or indented"
    return found


def name(page: Path) -> str:
    """Return the page as the repository names it."""
    return page.relative_to(ROOT).as_posix()


@dataclass
class Session:
    """A project, its environment, and what runs in the background."""

    folder: Path
    environment: dict[str, str]
    port: int = 0
    ids: dict[str, str] = field(default_factory=dict)
    background: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def take(self, block: Block) -> None:
        """Do with a block what its language asks for."""
        if block.title is not None:
            file = self.folder / block.title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text, encoding="utf-8")
        if block.language == "console":
            for command, expected in commands(block.text):
                self.command(command, expected)
        elif block.language == "python" and block.title is None:
            self.run([sys.executable, "-"], given=block.text)
        elif block.language in PARSERS:
            PARSERS[block.language](block.text)
        else:
            assert block.language in ("python", "text", "ini", "sql"), f"no rule for a {block.language!r} block"

    def command(self, command: str, expected: list[str]) -> None:
        """Run a line of a console."""
        for shown, real in self.ids.items():
            command = command.replace(shown, real)
        command = command.replace(":8000", f":{self.port}")
        words = shlex.split(command)
        if words[0] == "cd":
            self.folder = (self.folder / words[1]).resolve()
        elif words[0] == "export":
            self.environment.update(word.split("=", 1) for word in words[1:])
        elif words[0] == "make":
            subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        elif words[:2] == ["taskrunner", "start"]:
            self.start(words)
        else:
            self.compare(command, expected, self.run(["bash", "-c", command]))

    def run(self, words: list[str], given: str | None = None) -> str:
        """Run a program to its end in the project; it must succeed."""
        done = subprocess.run(
            words,
            input=given or "",
            cwd=self.folder,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, f"{words}: exit {done.returncode}\n{done.stdout}"
        return done.stdout

    def start(self, words: list[str]) -> None:
        """Start a process that stays, and wait until its runner is alive; a second `start all` is a new start."""
        if words[2] == "all":
            self.end()
        until = time.monotonic() + PATIENCE
        alive = self.alive() if self.background else 0
        log = (self.folder / f"start-{len(self.background)}.log").open("wb")
        with log:
            self.background.append(
                subprocess.Popen(words, cwd=self.folder, env=self.environment, stdout=log, stderr=log)
            )
        runs = words[2] in ("all", "runner")
        while runs and "DATABASE_URL" in self.environment and self.alive() <= alive:
            self.pause(until, "no runner of it comes up")
        self.await_success(["taskrunner", "health", *(["--ready"] if runs else [])])
        while runs and self.alive() <= alive:  # health answers for any runner: one of an earlier start, too
            self.pause(until, "no runner of it comes up")
        while words[2] in ("all", "api") and not self.answers():
            self.pause(until, "its API does not answer")

    def alive(self) -> int:
        """Return how many runners hold a lease; by a process only where just that knows the server."""
        if "DATABASE_URL" in self.environment:
            with psycopg.connect(self.environment["DATABASE_URL"]) as conn:
                row = conn.execute(ALIVE).fetchone()
            return int(row[0]) if row else 0
        listed = json.loads(self.run(["taskrunner", "runners", "list", "--json"]))
        return sum(runner["kind"] == "runner" and runner["alive"] for runner in listed)

    def answers(self) -> bool:
        """Tell whether the API answers."""
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with suppress(OSError), direct.open(f"http://127.0.0.1:{self.port}/monitor/health", timeout=PATIENCE) as answer:
            return bool(answer.status == 200)
        return False

    def await_success(self, words: list[str]) -> None:
        """Repeat a command until it succeeds."""
        until = time.monotonic() + PATIENCE
        while subprocess.run(words, cwd=self.folder, env=self.environment, capture_output=True, check=False).returncode:
            self.pause(until, f"{words} does not succeed")

    def pause(self, until: float, complaint: str) -> None:
        """Wait a moment for what was started last. Raises: AssertionError once it is too late, or it has ended."""
        assert time.monotonic() < until, complaint
        assert self.background[-1].poll() is None, "it ended by itself"
        time.sleep(0.1)

    def compare(self, command: str, expected: list[str], printed: str) -> None:
        """Find the expected lines in what was printed, in order, and take over the ids."""
        lines = iter(printed.splitlines())
        for shown in expected:
            if shown.strip() == "…":
                continue  # any number of lines, none included: what a watch shows depends on when it began
            pattern = loose(shown)
            match = next((line for line in lines if re.fullmatch(pattern, squeeze(line))), None)
            assert match is not None, f"$ {command}\nshould print\n  {shown}\nbut printed\n{printed}"
            self.ids.update(zip(UUID.findall(shown), UUID.findall(match), strict=False))

    def end(self) -> None:
        """Drain what runs in the background; it must leave with 0."""
        for process in self.background:
            process.send_signal(signal.SIGTERM)
        codes = [process.wait(PATIENCE) for process in self.background]
        assert not any(codes), f"exit codes of what was started: {codes}"
        self.background.clear()


PARSERS = {"toml": tomllib.loads, "json": json.loads, "yaml": yaml.safe_load}


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the commands of a console block, each with the lines that it should print."""
    joined = text.replace("\\\n", " ")
    command, expected = "", list[str]()
    for line in joined.splitlines():
        if line.startswith("$ "):
            if command:
                yield command, expected
            command, expected = line[2:].partition("  #")[0], []
        elif line.strip():
            assert command, f"a console begins with a command, not with {line!r}"
            expected.append(line)
    if command:
        yield command, expected


def squeeze(line: str) -> str:
    """Return a line without what changes from run to run."""
    return re.sub(r"\d[\d,]*", "0", re.sub(r"\s+", " ", UUID.sub("ID", re.sub(r"\x1b\[[0-9;]*m", "", line)))).strip()


def loose(shown: str) -> str:
    """Return the pattern of a line that a page shows."""
    return ".*".join(re.escape(squeeze(part)).replace(r"\ ", " *") for part in shown.split("…"))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that a private server of another user may enter, as pytest's own may not be."""
    made = Path(tempfile.mkdtemp(prefix="docs-"))
    made.chmod(0o755)
    yield made.resolve()
    shutil.rmtree(made, ignore_errors=True)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_of_the_page_works(page: Path, folder: Path, request: pytest.FixtureRequest) -> None:
    wanted = [block for block in blocks(page) if block.reason is None]
    if any("$ curl " in block.text for block in wanted) and shutil.which("curl") is None:
        pytest.skip("the page uses curl, which is not installed")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("TASKRUNNER_", "PYTEST"))}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    port = free_port()
    environment["TASKRUNNER_API_PORT"] = str(port)
    environment["COLUMNS"] = "80"
    environment["no_proxy"] = environment["NO_PROXY"] = "localhost,127.0.0.1"
    environment.pop("DATABASE_URL", None)
    runs = any(block.language == "console" or (block.language, block.title) == ("python", None) for block in wanted)
    if runs and PRIVATE not in page.read_text(encoding="utf-8"):
        database: Database = request.getfixturevalue("taskrunner_db")
        environment["DATABASE_URL"] = database.url
    session = Session(folder, environment, port)
    try:
        for block in wanted:
            try:
                session.take(block)
            except AssertionError as error:
                raise AssertionError(f"{name(page)}, block in line {block.line}: {error}") from error
    finally:
        session.end()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("$ echo one\ntwo\n", "should print"),
        ("$ printf 'one\\ntwo\\n'\ntwo\none\n", "should print"),
        ("$ false\n", "exit 1"),
        ("one\n", "begins with a command"),
    ],
)
def test_a_console_that_shows_what_does_not_happen_is_found_out(text: str, complaint: str, tmp_path: Path) -> None:
    session = Session(tmp_path, dict(os.environ))
    with pytest.raises(AssertionError, match=complaint):
        session.take(Block("console", None, text, None, 1))


def test_ids_that_a_page_shows_stand_for_the_real_ones(tmp_path: Path) -> None:
    shown, real = "01a20463-7cae-77a0-a364-e40c2359d90f", "01a20470-24fd-72f4-85f0-1ec0e4694c50"
    session = Session(tmp_path, dict(os.environ))
    session.take(Block("console", None, f"$ echo '12 {real}  x'\n1 {shown} x\n$ echo {shown} > id\n", None, 1))
    assert (tmp_path / "id").read_text().strip() == real


def test_only_these_blocks_are_not_run() -> None:
    left_out = {name(page): [block.reason for block in blocks(page) if block.reason] for page in PAGES}
    assert {page: reasons for page, reasons in left_out.items() if reasons} == NOT_RUN


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_of_the_page_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if re.match(r"\w+:", target):
            continue
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{name(page)} links to {target}"
        if anchor:
            assert anchor in anchors(there), f"{name(page)} links to {target}"


def anchors(page: Path) -> set[str]:
    """Return the headings of a page as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def free_port() -> int:
    """Return a port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
