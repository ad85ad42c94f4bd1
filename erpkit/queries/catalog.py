"""Read sqlc's description of a module's queries into records, with what sqlc leaves out of the migrations. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from erpkit.errors import QueryError
from erpkit.queries.types import (
    AS_SQLC_SAYS,
    Column,
    Enum,
    Name,
    Result,
    Table,
    enum_names,
    function_name,
    pieces,
    python_type,
    row_classes,
)

_SYSTEM = ("pg_catalog", "information_schema", "pg_temp")
_BUILT_IN = "pg_catalog"

_PART = r'(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)'
_NAME = rf"(?:IF\s+NOT\s+EXISTS\s+)?(?:({_PART})\s*\.\s*)?({_PART})"
_VIEW = re.compile(
    r"\bCREATE\s+(?:OR\s+REPLACE\s+)?(?:TEMP(?:ORARY)?\s+|RECURSIVE\s+|MATERIALIZED\s+)*VIEW\s+" + _NAME, re.IGNORECASE
)
_TABLE = re.compile(r"\bCREATE\s+(?:UNLOGGED\s+|FOREIGN\s+)?TABLE\s+" + _NAME + r"(\s+AS\b)?", re.IGNORECASE)
_FUNCTION = re.compile(r"\bCREATE\s+(?:OR\s+REPLACE\s+)?FUNCTION\s+" + _NAME + r"\s*\(", re.IGNORECASE)
_DOMAIN = re.compile(
    rf"\bCREATE\s+DOMAIN\s+{_NAME}\s+(?:AS\s+)?(?:({_PART})\s*\.\s*)?({_PART})(?!\s*\[|\w)", re.IGNORECASE
)
_TYPE = re.compile(r"\bCREATE\s+TYPE\s+" + _NAME, re.IGNORECASE)


@dataclass(frozen=True)
class Declared:
    """Names that migrations declare, as they are written there.

    `functions` are those without overloads, whose result has one type. The columns of `views` and `copies` (by CREATE TABLE … AS)
    are never NOT NULL. `own` are all names without a schema.
    """

    views: frozenset[Name]
    copies: frozenset[Name]
    functions: frozenset[Name]
    domains: Mapping[Name, Name]
    own: frozenset[str]


NOTHING_DECLARED = Declared(frozenset(), frozenset(), frozenset(), {}, frozenset())


def read_declared(texts: Iterable[str]) -> Declared:
    """Return the names that migrations declare outside comments and strings, including those that are dropped later."""
    text = "\n".join(
        "".join(" " if is_opaque and not piece.startswith('"') else piece for piece, is_opaque in pieces(text))
        for text in texts
    )
    functions = Counter(_named(match) for match in _FUNCTION.finditer(text))
    tables = [(_named(match), match[3] is not None) for match in _TABLE.finditer(text)]
    views = frozenset(_named(match) for match in _VIEW.finditer(text))
    domains = {_named(match): Name(fold(match[3] or ""), fold(match[4])) for match in _DOMAIN.finditer(text)}
    types = [_named(match) for match in _TYPE.finditer(text)]
    declared = (*functions, *views, *domains, *types, *(name for name, _ in tables))
    return Declared(
        views=views,
        copies=frozenset(name for name, is_copy in tables if is_copy),
        functions=frozenset(name for name, times in functions.items() if times == 1),
        domains=domains,
        own=frozenset(name.name for name in declared if not name.schema),
    )


def fold(identifier: str) -> str:
    """Return an identifier as PostgreSQL folds it."""
    return identifier[1:-1].replace('""', '"') if identifier.startswith('"') else identifier.lower()


def _named(match: re.Match[str]) -> Name:
    return Name(fold(match[1] or ""), fold(match[2]))


# `public.name` outside of strings, comments, function bodies and other quoted names.
_PUBLIC = re.compile(
    r"""[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|--[^\n]*|/\*.*?\*/|\$(?P<tag>[A-Za-z_]*)\$.*?\$(?P=tag)\$"""
    r"""|(?<![\w$."])(?P<schema>public|"public")(?P<dot>\s*\.\s*)(?P<name>"(?:[^"]|"")+"|[^\W\d][\w$]*)|"(?:[^"]|"")*["]""",
    re.DOTALL | re.IGNORECASE,
)


@dataclass(frozen=True)
class Apart:
    """Names that exist both in `public` and in the tenant's schema.

    sqlc is given another schema, `alias`, which has as many letters, wherever `public` qualifies one of them.
    """

    alias: str = ""
    names: frozenset[str] = frozenset()

    def hide(self, text: str) -> str:
        """Return SQL as it is given to sqlc."""

        def shown(match: re.Match[str]) -> str:
            if match["name"] is None or fold(match["name"]) not in self.names:
                return match[0]
            return match["schema"].lower().replace("public", self.alias) + match["dot"] + match["name"]

        return _PUBLIC.sub(shown, text) if self.names else text

    def restore(self, text: str) -> str:
        """Return sqlc's text with the schema `public` again."""
        return text.replace(self.alias, "public") if self.names else text

    def of_sqlc(self, schema: str, name: str) -> Name:
        """Return the name that sqlc means by a schema and a name."""
        return Name({"public": "", self.alias: "public" if self.names else ""}.get(schema, schema), name)

    def written(self, name: Name) -> Name:
        """Name what is meant by a name as it is written in SQL."""
        return Name("", name.name) if name.schema == "public" and name.name not in self.names else name


def tell_apart(texts: Sequence[str], own: Collection[str]) -> Apart:
    """Return the names that are declared without a schema, `own`, and also used with `public`."""
    used = {fold(match["name"]) for text in texts for match in _PUBLIC.finditer(text) if match["name"] is not None}
    names = frozenset(used & set(own))
    if not names:
        return Apart()
    taken = "\n".join(texts).lower()
    return Apart(next(alias for n in count() if (alias := f"pub_{n:02}") not in taken), names)


@dataclass(frozen=True)
class Query:
    """One query: its name and annotation, its SQL with `$1` placeholders, its parameters and columns.

    `table` is the table whose whole rows it returns, if it does. For `:copyfrom`, `text` is a COPY, and `copied` are the numbers of
    the parameters in the order of its columns.
    """

    name: str
    command: str
    text: str
    comments: tuple[str, ...]
    columns: tuple[Column, ...]
    parameters: tuple[tuple[int, Column], ...]
    slices: frozenset[int] = frozenset()
    file: str = ""
    is_one_row: bool = False
    table: Table | None = None
    copied: tuple[int, ...] = ()


@dataclass(frozen=True)
class Request:
    """The input of the code generation: the queries of one module, with the enums and tables that they may use."""

    queries: tuple[Query, ...]
    enums: Mapping[Name, Enum]
    tables: Mapping[Name, Table]


@dataclass(frozen=True)
class _Types:
    """The types that migrations declare, by which a column's type is found."""

    apart: Apart
    enums: Mapping[Name, Enum]
    domains: Mapping[Name, Name]
    composites: Collection[Name]

    def find(self, raw: Mapping[str, str]) -> Name:
        """Return the name of a type; sqlc writes a parameter's type as the name `schema.name` with an empty schema."""
        schema, name = raw["schema"], raw["name"].removeprefix(f"{_BUILT_IN}.")
        if schema == _BUILT_IN or name != raw["name"]:
            return Name(_BUILT_IN, name)
        candidates = [self.apart.of_sqlc(schema, name)]
        if not schema:
            dots = [place for place, letter in enumerate(name) if letter == "."]
            candidates += [self.apart.of_sqlc(name[:dot], name[dot + 1 :]) for dot in dots]
        foreign = candidates[0].schema and name != "citext"
        known = (one for one in candidates if self.is_declared(one))
        return next(known, candidates[0] if foreign else Name(_BUILT_IN, name))

    def is_declared(self, name: Name) -> bool:
        return name in self.enums or name in self.domains or name in self.composites

    def below(self, name: Name) -> Name:
        """Return the base type of a domain of any depth; a type that no migration declares is built in."""
        for _ in range(len(self.domains)):
            if (base := self.domains.get(name)) is None:
                break
            name = base if self.is_declared(base) else Name(_BUILT_IN, base.name)
        return name


def parse_request(
    request: Mapping[str, Any], declared: Declared = NOTHING_DECLARED, apart: Apart | None = None
) -> Request:
    """Read sqlc's description, the JSON of a plugin's request, into records."""
    return _Parser(request, declared, apart or Apart()).request()


class _Parser:
    """Reads the queries of one description against its catalog."""

    def __init__(self, request: Mapping[str, Any], declared: Declared, apart: Apart) -> None:
        schemas = [schema for schema in request["catalog"]["schemas"] if schema["name"] not in _SYSTEM]
        self.apart = apart
        self.queries = request["queries"] or ()
        raw = {self._name(table["rel"]): table["columns"] for schema in schemas for table in schema["tables"]}
        classes = row_classes(raw)
        constants = {function_name(query["name"]).upper() for query in self.queries}
        self.types = self._types(schemas, declared, {*classes.values(), *constants})
        self.functions = frozenset(name.name for name in map(apart.written, declared.functions) if not name.schema)
        views = set(map(apart.written, declared.views))
        nullable = views | set(map(apart.written, declared.copies))
        self.tables = {
            name: Table(name, classes[name], tuple(self._columns(columns, name in nullable)), name in views)
            for name, columns in raw.items()
        }
        self.written = {Name("public", name.name): table for name, table in self.tables.items() if not name.schema}
        self.written |= self.tables

    def request(self) -> Request:
        return Request(tuple(self._query(query) for query in self.queries), self.types.enums, self.tables)

    def _name(self, raw: Mapping[str, str]) -> Name:
        return self.apart.of_sqlc(raw["schema"], raw["name"])

    def _types(self, schemas: Sequence[Mapping[str, Any]], declared: Declared, taken: Collection[str]) -> _Types:
        values = {
            self.apart.of_sqlc(schema["name"], enum["name"]): tuple(enum["vals"])
            for schema in schemas
            for enum in schema.get("enums") or ()
        }
        named = enum_names(values, taken)
        composites = {
            self.apart.of_sqlc(schema["name"], one["name"])
            for schema in schemas
            for one in schema.get("composite_types") or ()
        }
        domains = {self.apart.written(name): self.apart.written(base) for name, base in declared.domains.items()}
        return _Types(self.apart, {name: Enum(name, named[name], values[name]) for name in values}, domains, composites)

    def _columns(self, columns: Sequence[Mapping[str, Any]], is_nullable: bool) -> Iterator[Column]:
        """Return a table's columns; in PostgreSQL, no column of a view is NOT NULL."""
        for raw in columns:
            column = self._column(raw)
            yield replace(column, not_null=False) if is_nullable else column

    def _column(self, raw: Mapping[str, Any]) -> Column:
        dimensions = max(raw["array_dims"], int(raw["is_array"]))
        kind = self.types.find(raw["type"])
        kind = kind if dimensions else self.types.below(kind)
        return Column(
            name=raw["name"],
            type=kind.name if kind.schema == _BUILT_IN else str(kind),
            not_null=raw["not_null"],
            dimensions=dimensions,
            enum=self.types.enums.get(kind),
            embeds=self._embedded(raw["embed_table"]) if raw.get("embed_table") else None,
            table=self._name(raw["table"]) if raw.get("table") else None,
        )

    def _embedded(self, raw: Mapping[str, str]) -> Table:
        """Return the embedded table; if its name is not an alias, it may belong to another schema."""
        name = self._name(raw)
        return self.tables.get(name) or next(table for other, table in self.tables.items() if other.name == name.name)

    def _parameter(self, raw: Mapping[str, Any]) -> Column:
        column = self._column(raw)
        return replace(column, dimensions=1, not_null=True) if raw["is_sqlc_slice"] else column

    def _query(self, raw: Mapping[str, Any]) -> Query:
        parameters = tuple((item["number"], self._parameter(item["column"])) for item in raw["params"] or ())
        query = Query(
            name=raw["name"],
            command=raw["cmd"],
            text=self.apart.restore(raw["text"]),
            comments=tuple(comment.strip() for comment in raw["comments"] or ()),
            columns=tuple(self._column(column) for column in raw["columns"] or ()),
            parameters=parameters,
            slices=frozenset(item["number"] for item in raw["params"] or () if item["column"]["is_sqlc_slice"]),
            file=raw.get("filename", ""),
        )
        if query.command == ":copyfrom":
            from erpkit.queries.analysis import as_copy  # noqa: PLC0415 - its parser is only needed here

            text, copied = as_copy(query.file, query.name, query.text, self.written)
            return replace(query, text=text, copied=copied)
        return self._with_results(query) if query.columns else query

    def _with_results(self, query: Query) -> Query:
        """Keep sqlc's types as far as the SQL confirms them; if the SQL is not understood, every column may be NULL."""
        from erpkit.queries.analysis import read_query  # noqa: PLC0415 - its parser is only needed here

        reading = read_query(query.text, self.written, self.functions, dict(query.parameters))
        firsts = _firsts(query.columns, reading.results) if reading is not None else None
        if reading is None or firsts is None:
            self._refuse_doubtful(query)
            columns = tuple(replace(column, not_null=False) for column in query.columns)
            return replace(query, columns=columns, table=self._table(columns, self.tables.keys()))
        _refuse_ambiguous(query, firsts)
        columns = tuple(_confirmed(column, first) for column, first in zip(query.columns, firsts, strict=True))
        table = self._table(columns, reading.tables)
        return replace(query, columns=columns, is_one_row=reading.is_one_row, table=table)

    def _refuse_doubtful(self, query: Query) -> None:
        """Raise QueryError for an embedded name that several tables have."""
        for column in query.columns:
            if column.embeds and sum(name.name == column.embeds.name.name for name in self.tables) > 1:
                raise QueryError(
                    f"{query.file}: query {query.name} embeds {column.name}, and several schemas have a table of that name: "
                    "give each an alias"
                )

    def _table(self, columns: Sequence[Column], named: Collection[Name]) -> Table | None:
        """Return the table whose rows the query returns; among tables with equal columns, sqlc's origin decides."""
        shape = _shape(columns)
        same = [table for name, table in self.tables.items() if name in named and _shape(table.columns) == shape]
        origins = {column.table for column in columns}
        return next((table for table in same if origins == {table.name}), same[0] if same else None)


def _refuse_ambiguous(query: Query, firsts: Sequence[Result]) -> None:
    for column, first in zip(query.columns, firsts, strict=True):
        if column.embeds is not None and first.is_ambiguous:
            raise QueryError(
                f"{query.file}: query {query.name} embeds {first.source}, and two tables have that name there: give each an alias"
            )


def _shape(columns: Sequence[Column]) -> list[tuple[str, str]]:
    return [(column.name, python_type(column)) for column in columns]


def _firsts(columns: Sequence[Column], results: Sequence[Result]) -> list[Result] | None:
    """Return the first result of each column, as an embedded table has several; None if the numbers do not match."""
    firsts: list[Result] = []
    position = 0
    for column in columns:
        if position >= len(results):
            return None
        first = results[position]
        firsts.append(first)
        position += len((first.table or column.embeds).columns) if column.embeds else 1
    return firsts if position == len(results) else None


def _confirmed(column: Column, result: Result) -> Column:
    found = result.column
    if column.embeds is not None:
        table = result.table or column.embeds
        return replace(column, name=result.source or column.name, not_null=not result.is_optional, embeds=table)
    if found.type == AS_SQLC_SAYS:
        return replace(column, not_null=found.not_null)
    return replace(found, name=column.name, table=column.table)
