"""Finding the task types of a project: every module of its tasks folder is imported, or nothing is registered."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType

from taskrunner.errors import DiscoveryError, RegistrationError
from taskrunner.errortext import clean_text
from taskrunner.registry.types import Registry, TaskType, registry
from taskrunner.task import Task


def discover(project: Path, package: str = "tasks") -> Registry:
    """Import every module of a folder (or the one module) of the project, and return the registry they filled.

    The project is put first on `sys.path`. Raises DiscoveryError, DuplicateName or RegistrationError with file and
    line; then the registry is as it was before.
    """
    project = Path(project).resolve()
    name = package.strip("/").replace("/", ".")
    source = _source(project, name)
    before, path, loaded = registry.copy(), list(sys.path), set(sys.modules)
    sys.path[:] = [str(project), *(entry for entry in path if entry != str(project))]
    importlib.invalidate_caches()
    try:
        _import_all(project, name, source)
        registry.modules |= _imported(name, loaded)
    except BaseException:
        registry.become(before)
        sys.path[:] = path
        for module in _imported(name, loaded):
            del sys.modules[module]
        raise
    return registry


def _source(project: Path, name: str) -> Path:
    folder = project.joinpath(*name.split("."))
    if folder.is_dir():
        return folder
    if folder.with_suffix(".py").is_file():
        return folder.with_suffix(".py")
    raise DiscoveryError(
        f"there is no tasks folder {folder}: `taskrunner init` makes one, the setting TASKRUNNER_TASKS names another"
    )


def _import_all(project: Path, name: str, source: Path) -> None:
    if source.is_dir():
        for depth in range(name.count(".") + 1):
            package = ".".join(name.split(".")[: depth + 1])
            _open_package(package, project.joinpath(*package.split(".")), source)
    for module_name, file in _modules(source, name):
        module = _load(module_name, file, source)
        _register_again(module)
    for task_type in registry.all():
        _complete(task_type)


def _modules(source: Path, name: str) -> Iterator[tuple[str, Path]]:
    """Yield names and files, packages before their modules; hidden files and `__main__.py` are left alone."""
    if source.is_file():
        yield name, source
        return
    for folder, folders, files in os.walk(source):
        folders[:] = sorted(one for one in folders if not one.startswith(".") and one != "__pycache__")
        parts = Path(folder).relative_to(source).parts
        for file in sorted(files):
            stem = file.removesuffix(".py")
            if stem == file or stem.startswith(".") or stem == "__main__":
                continue
            if any("." in part for part in (stem, *parts)):
                raise DiscoveryError(
                    f"{Path(folder, file)}: a dot in the name keeps Python from importing it: rename it"
                )
            yield ".".join([name, *parts, *([] if stem == "__init__" else [stem])]), Path(folder, file)


def _open_package(name: str, folder: Path, source: Path) -> None:
    """Make sure that the package's name means this folder, with or without an `__init__.py`."""
    if name not in sys.modules:
        if (folder / "__init__.py").is_file():
            _load(name, folder / "__init__.py", source)
        else:
            _make_namespace(name, folder)
    places = [Path(place).resolve() for place in getattr(sys.modules[name], "__path__", ())]
    if folder.resolve() not in places:
        other = ", ".join(map(str, places)) or getattr(sys.modules[name], "__file__", None) or "Python itself"
        raise DiscoveryError(
            f"{folder}: another package called {name!r} is imported already, from {other}: "
            "rename the folder and name it in the setting TASKRUNNER_TASKS"
        )


def _make_namespace(name: str, folder: Path) -> None:
    # By the usual search, any installed package of this name would win over a folder without `__init__.py`.
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    sys.modules[name] = module_from_spec(spec)
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, sys.modules[name])


def _load(name: str, file: Path, source: Path) -> ModuleType:
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except RegistrationError as error:
        raise type(error)(f"{_place(error, file, source)}: {error}") from error
    except BaseException as error:  # a module may even call sys.exit()
        reason = clean_text(f"{type(error).__name__}: {error}")
        raise DiscoveryError(f"{_place(error, file, source)}: {reason}") from error


def _place(error: BaseException, file: Path, source: Path) -> str:
    """Return file and line of the error: the innermost line that is the project's own."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f"{error.filename}:{error.lineno}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).is_relative_to(source):
            return f"{frame.filename}:{frame.lineno}"
    return f"{file}:1"


def _register_again(module: ModuleType) -> None:
    """Register the types of a module that had been imported earlier, perhaps for another registry."""
    for value in list(vars(module).values()):
        if isinstance(value, type) and issubclass(value, Task) and value.__module__ == module.__name__:
            declared = vars(value).get("_task_defaults")
            if isinstance(declared, TaskType):
                registry.add(declared)


def _complete(task_type: TaskType) -> None:
    """Resolve the names in the fields' types that the class could not see when it was made."""
    if not task_type.cls.__pydantic_complete__:
        try:
            task_type.cls.model_rebuild()
        except Exception as error:
            raise DiscoveryError(
                f"{task_type.file}:{task_type.line}: the fields of {task_type.where()} cannot be understood: {error}"
            ) from error


def _imported(name: str, before: set[str]) -> frozenset[str]:
    """Return the modules of the package, and the packages it lies in, that were not there before."""
    top = name.partition(".")[0]
    return frozenset(one for one in sys.modules if one not in before and (one == top or one.startswith(f"{top}.")))
