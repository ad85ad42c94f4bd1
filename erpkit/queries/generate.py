"""Writing a module's typed queries beside its folder of SQL, or telling that they are stale."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from erpkit.errors import QueryError, UsageError
from erpkit.modules import ModuleLike, is_foreign
from erpkit.queries.render import render
from erpkit.queries.sqlc import queries_folder, run_sqlc


@contextmanager
def without_generated_code() -> Iterator[None]:
    """Let every `sql.py` beside a folder of queries be a placeholder when it is imported inside the block.

    A module's handlers import what is generated from its record, so that one could not be had without the other. Use it
    in a process that reads modules and runs none of them: what was imported keeps its placeholders.
    """
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Anything(type):
    """A class for any generated name: may be called, subclassed, part of an annotation, and has any attribute."""

    def __getattr__(cls, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return _anything(name)


class _Placeholder(ModuleType):
    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return _anything(name)


class _Finder(MetaPathFinder, Loader):
    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,  # noqa: ARG002 - importlib's signature
    ) -> ModuleSpec | None:
        is_generated = fullname.endswith(".sql") and any(_has_queries(Path(folder)) for folder in path or ())
        return ModuleSpec(fullname, self) if is_generated else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Placeholder(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def _anything(name: str) -> object:
    return _Anything(name, (), {})


def _has_queries(folder: Path) -> bool:
    return any("-- name:" in path.read_text(encoding="utf-8") for path in folder.glob("*/*.sql"))


@dataclass(frozen=True)
class GeneratedFile:
    """The generated code of one module; `stale` says that the file was, or is, not what the SQL says."""

    module: str
    path: Path
    queries: int
    stale: bool


class BrokenModulesError(QueryError):
    """The queries of some modules are broken, a line each; `files` are those of the others, which are written."""

    def __init__(self, errors: Sequence[QueryError], files: Sequence[GeneratedFile]) -> None:
        super().__init__("\n".join(str(error) for error in errors))
        self.files = tuple(files)


def generated_path(module: ModuleLike) -> Path | None:
    """Return where a module's typed queries are: `sql.py`, beside its folder of queries."""
    folder = queries_folder(module)
    return None if folder is None else folder.parent / "sql.py"


def generate(modules: Sequence[ModuleLike], *, check: bool = False) -> list[GeneratedFile]:
    """Generate the typed queries of all `modules`, given in load order; with `check`, compare and write nothing.

    Nothing is written for a module with a broken query, and all others' code is: BrokenModulesError then names each broken one with
    its file and line. A folder without any query gets no code. Raises UsageError for modules that are written in another language.
    """
    if foreign := [module.name for module in modules if is_foreign(module)]:
        raise UsageError(
            f"{foreign[0]} is described by a modules.toml and written in another language: no Python is generated for it; "
            "`erpkit queries check` reads its SQL as it is"
        )
    files: list[GeneratedFile] = []
    errors: list[QueryError] = []
    for module in modules:
        try:
            files += _generate(module, modules, check)
        except QueryError as error:
            errors.append(error)
    if errors:
        raise BrokenModulesError(errors, files)
    return files


def _generate(module: ModuleLike, modules: Sequence[ModuleLike], check: bool) -> Iterator[GeneratedFile]:
    path = generated_path(module)
    if path is None:
        return
    request = run_sqlc(module, modules)
    source = render(module.name, request)
    present = _present(path)
    stale = present != source if request.queries else present not in (None, source)
    if stale and not check:
        try:
            path.write_text(source, encoding="utf-8")
        except OSError as error:
            raise QueryError(f"module {module.name}: {path} cannot be written: {error.strerror}") from None
    yield GeneratedFile(module.name, path, len(request.queries), stale)


def _present(path: Path) -> str | None:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else None
