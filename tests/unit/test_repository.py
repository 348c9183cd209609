"""The rules that hold for the repository's own files: sizes, locks, targets, deployment, generated pages."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from taskrunner.settings import Settings
from taskrunner.settings.sources import variable

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MODULES = sorted((ROOT / "taskrunner").rglob("*.py"))
REQUIREMENTS = ("run.txt", "dev.txt")
MADE_HERE = {
    ".bench",
    ".git",
    ".venv",
    ".hypothesis",
    ".taskrunner",
    "__pycache__",
    "build",
    "dist",
    "outbox",
    "node_modules",
}
GRACE: timedelta = Settings.model_fields["grace"].default
FRAMEWORKS = {"psycopg", "psycopg_pool", "sqlmodel", "sqlalchemy", "alembic", "typer", "rich", "fastapi", "uvicorn"}


def relative(path: Path) -> str:
    """Return the path as the repository names it."""
    return path.relative_to(ROOT).as_posix()


def sources() -> Iterator[Path]:
    """Yield every file that a person wrote."""
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in MADE_HERE and not name.endswith("_cache")]
        yield from (
            Path(folder) / name for name in files if name not in MADE_HERE
        )  # a linked work tree's .git is a file


def pins(name: str) -> dict[str, str]:
    """Return the packages of a requirement file with their versions."""
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    return {canonicalize_name(package): version for package, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.M)}


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the number of lines of a function's body without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


# --- the code ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_module_has_a_docstring_and_at_most_400_lines(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), f"{relative(path)} does not say what it is for"
    assert text.count("\n") <= 400, f"{relative(path)} has more than one duty"


def test_no_function_is_longer_than_60_lines() -> None:
    long = [
        f"{relative(path)}:{node.lineno} {node.name}: {code_lines(node)} lines"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and code_lines(node) > 60
    ]
    assert not long, "\n".join(long)


def test_every_module_below_the_storage_layers_is_forbidden_the_frameworks() -> None:
    layers, _, forbidden = PROJECT["tool"]["importlinter"]["contracts"]
    tops = [re.findall(r"\w+", layer) for layer in layers["layers"]]
    below = {name for layer in tops[tops.index(["registry", "executors"]) :] for name in layer}
    there = {f"taskrunner.{name}" for name in below if importlib.util.find_spec(f"taskrunner.{name}")}
    assert set(forbidden["source_modules"]) == there
    assert set(forbidden["forbidden_modules"]) == FRAMEWORKS


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    foreign = re.compile("|".join(map(re.escape, ("/" + "work/", "../" + "shared", "/root/" + "."))))
    named = []
    for path in sources():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        named += [f"{relative(path)}: {found}" for found in foreign.findall(text)]
    assert not named, "\n".join(named)


# --- dependencies --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_every_pin_has_a_hash_and_no_file_names_an_index(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    blocks = re.split(r"^(?=[\w.-]+==)", text, flags=re.M)[1:]
    assert blocks
    assert [block.splitlines()[0] for block in blocks if "--hash=sha256:" not in block] == []
    assert not re.search(r"://|--(extra-)?index|--find-links|--trusted-host", text)


@pytest.mark.parametrize(
    ("name", "groups"),
    [("run.txt", ["build"]), ("dev.txt", ["build", "dev"])],
)
def test_every_direct_dependency_is_pinned_to_a_version_that_pyproject_allows(name: str, groups: list[str]) -> None:
    wanted = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["embedded"]]
    wanted += [line for group in groups for line in PROJECT["dependency-groups"][group]]
    pinned = pins(name)
    for requirement in map(Requirement, wanted):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in {name}: run `make lock`"
        assert requirement.specifier.contains(version), f"{requirement} against {version}: run `make lock`"


def test_running_and_testing_use_the_same_versions() -> None:
    run, dev = (set(pins(name).items()) for name in REQUIREMENTS)
    assert run < dev


def test_running_installs_no_development_tool() -> None:
    tools = {"pytest", "ruff", "mypy", "bandit", "hypothesis", "import-linter", "pip-audit", "uv"}
    assert tools <= set(pins("dev.txt"))
    assert not tools & set(pins("run.txt"))


def test_the_wheel_carries_the_migrations_and_the_mark_of_typing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hatchling = pytest.importorskip("hatchling.build")
    monkeypatch.chdir(ROOT)
    with ZipFile(tmp_path / hatchling.build_wheel(str(tmp_path))) as wheel:
        names = set(wheel.namelist())
    versions = {f"taskrunner/migrations/versions/{path.name}" for path in (ROOT / "migrations/versions").glob("*.py")}
    assert versions
    assert {"taskrunner/migrations/env.py", "taskrunner/py.typed"} | versions <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"taskrunner"}


# --- commands and pages --------------------------------------------------------------------------------------------


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.M)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    shown = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, env=environ, capture_output=True, text=True, check=True, timeout=30
    )
    assert phony is not None
    assert sorted(re.findall(r"^  make ([\w-]+)", shown.stdout, re.M)) == sorted(phony[1].split())


def test_the_ci_script_can_be_run() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=30)


def test_the_changelog_names_the_version() -> None:
    version = PROJECT["project"]["version"]
    assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_generated_pages_equal_their_sources() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    pages = list(generate.pages())
    assert pages
    stale = [relative(path) for path, text in pages if not path.exists() or path.read_text(encoding="utf-8") != text]
    assert not stale, f"run `make docs`: {stale}"


# --- deployment ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    """The services of docker-compose.yml, with its anchors merged."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    services: dict[str, dict[str, Any]] = compose["services"]
    return services


def own(services: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the services that run this project."""
    return {name: service for name, service in services.items() if name != "db"}


def test_compose_runs_only_commands_that_exist(services: dict[str, dict[str, Any]]) -> None:
    from typer.testing import CliRunner

    app = pytest.importorskip("taskrunner.cli").app
    checks = [service["healthcheck"].get("test") for service in own(services).values()]
    commands = [service["command"] for service in own(services).values()] + [check[2:] for check in checks if check]
    for command, *words in commands:
        shown = CliRunner().invoke(app, [command, "--help"])
        assert shown.exit_code == 0, f"no command {command}"
        assert set(words) <= set(re.findall(r"\w+", shown.output)), f"{command} knows no {words}"


def test_compose_starts_the_database_on_port_6000_and_waits_until_it_answers(
    services: dict[str, dict[str, Any]],
) -> None:
    database = services["db"]
    assert database["ports"] == ["127.0.0.1:6000:5432"]
    assert database["environment"] == {
        "POSTGRES_USER": "taskuser",
        "POSTGRES_PASSWORD": "taskpass",
        "POSTGRES_DB": "taskdb",
    }
    assert "pg_isready" in database["healthcheck"]["test"]


def test_compose_migrates_first_and_leaves_time_to_drain(services: dict[str, dict[str, Any]]) -> None:
    assert set(own(services)) == {"migrate", "scheduler", "runner", "api"}
    for name, service in own(services).items():
        waits = {needed: condition["condition"] for needed, condition in service["depends_on"].items()}
        expected = {"db": "service_healthy"} | (
            {} if name == "migrate" else {"migrate": "service_completed_successfully"}
        )
        assert waits == expected
        assert service["read_only"] is True
        assert timedelta(seconds=int(service["stop_grace_period"].removesuffix("s"))) > GRACE


def test_compose_sets_only_settings_that_exist(services: dict[str, dict[str, Any]]) -> None:
    known = {variable(name) for name in Settings.model_fields}
    for service in own(services).values():
        assert set(service["environment"]) <= known


def test_compose_needs_no_variable_so_that_the_database_starts_alone() -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    assert "${" not in code


def test_compose_publishes_the_api_on_loopback_and_takes_its_token_from_the_environment(
    services: dict[str, dict[str, Any]],
) -> None:
    api = services["api"]
    assert api["ports"] == ["127.0.0.1:8000:8000"]
    assert api["environment"]["TASKRUNNER_API_HOST"] == "0.0.0.0"  # noqa: S104 - inside its container
    assert api["environment"]["TASKRUNNER_API_TOKEN"] is None


def test_the_image_runs_as_an_ordinary_user_and_installs_by_hash() -> None:
    lines = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert lines.index("USER 10001") > max(number for number, line in enumerate(lines) if line.startswith("FROM"))
    assert any("--require-hashes" in line for line in lines)
    copied = {word.rstrip("/") for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]}
    kept = {line[1:].rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {path for path in copied if not path.startswith(("-", "/"))} == kept


def test_systemd_stops_the_supervisor_alone_and_leaves_time_to_drain() -> None:
    unit = (ROOT / "deploy" / "systemd" / "taskrunner.service").read_text(encoding="utf-8")
    lines = dict(re.findall(r"^(\w+)=(.*)$", unit, re.M))
    assert lines["KillMode"] == "mixed"
    assert timedelta(seconds=int(lines["TimeoutStopSec"])) > GRACE
    assert lines["ExecStart"].endswith("/taskrunner start all")
