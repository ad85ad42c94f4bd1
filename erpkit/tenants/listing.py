"""Which table lists the tenants of a foreign ERP, and the ERPKIT_TENANTS_QUERY that follows from it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from erpkit.database import Connection
from erpkit.errors import first_line
from erpkit.tenants.family import Family, Schema, only_theirs

__all__ = ["Column", "Listing", "find_listing", "write_query"]

_MOST_COLUMNS = 300  # that are looked into
_MOST_PAGES = 6400  # of a table that is looked into: 50 MiB
_MOST_ROWS = 50_000  # of it that are read

# How the column is called that names a tenant's schema, the most telling first, and those for its name and status.
_SCHEMA_COLUMNS = ("schema_name", "schema", "tenant_schema", "db_schema", "tenant", "tenant_name", "subdomain", "slug", "database",
                   "code", "key", "name", "id")  # fmt: skip
_NAME_COLUMNS = ("name", "title", "display_name", "company_name", "company", "label", "full_name")
_OF_TENANTS = re.compile("tenant|client|customer|compan|account|organi|mandant|firm|kunde|site|shop|store|workspace")
_FLAGS = ("is_active", "active", "enabled", "is_enabled")
_STATUSES = ("status", "state")

_COLUMNS = """
SELECT quote_ident(n.nspname), quote_ident(c.relname), quote_ident(a.attname), a.attname::text, t.typcategory::text,
       EXISTS (SELECT FROM pg_catalog.pg_index i
                WHERE i.indrelid = c.oid AND i.indisunique AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum)
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
 WHERE n.nspname = ANY(%s) AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpages <= %s
   AND t.typcategory IN ('S', 'N', 'B')
   AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
 ORDER BY 1, 2, a.attnum
"""


@dataclass(frozen=True)
class Column:
    """A column that may hold the names of schemas; `schema`, `table` and `column` are quoted where they need it."""

    schema: str
    table: str
    column: str
    name: str
    category: str
    is_unique: bool

    @property
    def place(self) -> str:
        """The table with its schema, as SQL writes it."""
        return f"{self.schema}.{self.table}"

    @property
    def plausibility(self) -> int:
        """How well its name fits; lower is better."""
        return _SCHEMA_COLUMNS.index(self.name) if self.name in _SCHEMA_COLUMNS else len(_SCHEMA_COLUMNS)


@dataclass(frozen=True)
class Listing:
    """The column that holds the tenants' names: schemas are called `prefix` and what it holds.

    `listed` are the schemas that it names, whether they look like tenants or not. A column that is `repeated` names some of them
    in several rows. `siblings` are the other columns of its table, and `status` is the one that tells who is active.
    """

    column: Column
    prefix: str
    listed: frozenset[str]
    repeated: bool = False
    has_blanks: bool = False
    siblings: tuple[Column, ...] = field(default=(), repr=False)
    status: Column | None = None
    kind: str = ""

    def __str__(self) -> str:
        return f"{self.column.place}.{self.column.column}" + (f" behind {self.prefix}" if self.prefix else "")


@dataclass(frozen=True)
class _Count:
    """Of a column: how many schemas of the family it names, in how many of how many rows, and behind which prefix."""

    column: Column
    prefix: str
    schemas: int
    matching: int
    rows: int

    @property
    def is_credible(self) -> bool:
        """Whether it is no chance: a number is the key of many a table."""
        stray = self.rows - self.matching
        return self.column.category == "S" or (bool(_OF_TENANTS.search(self.column.table)) and stray <= self.schemas)

    @property
    def rank(self) -> tuple[Any, ...]:
        """How well it fits: each tenant once, all of them, and nothing else."""
        c = self.column
        return (self.matching == self.schemas, self.schemas, -c.plausibility, self.matching - self.rows, c.is_unique)


def find_listing(
    connection: Connection, family: Family, schemas: Sequence[Schema], others: Sequence[Family] = ()
) -> tuple[Listing | None, str]:
    """Look for the table outside of all families that names the schemas of one; return it, and what kept one from being read.

    It takes three queries, however many schemas there are; large tables are left out.
    """
    inside = {name for each in (family, *others) for name in each.names}
    outside = [schema.name for schema in schemas if schema.name not in inside]
    columns = [Column(*row) for row in connection.execute(_COLUMNS, [outside, _MOST_PAGES])]
    asked = [one for one in columns if one.category == "S" or (one.category == "N" and family.prefix)]
    counts, error = _count(connection, family, sorted(asked, key=lambda one: one.plausibility)[:_MOST_COLUMNS])
    likely = [one for one in counts if one.is_credible and one.schemas * 2 >= len(family.schemas)]
    best = max(likely, key=lambda one: one.rank, default=None)
    return (_describe(connection, schemas, best, columns) if best else None), error


def _count(connection: Connection, family: Family, columns: Sequence[Column]) -> tuple[list[_Count], str]:
    """Count what each column names, all in one query; where a table cannot be read, table by table, and it is left out."""
    try:
        return _counts(connection, family, columns), ""
    except psycopg.Error:
        pass
    found, error = [], ""
    for table in dict.fromkeys(column.place for column in columns):
        try:
            found += _counts(connection, family, [column for column in columns if column.place == table])
        except psycopg.Error as reason:
            error = f"{table} could not be read: {first_line(reason)}"
    return found, error


def _counts(connection: Connection, family: Family, columns: Sequence[Column]) -> list[_Count]:
    if not columns:
        return []
    with connection.transaction():
        rows = connection.execute(_counting(family, columns)).fetchall()
    return [
        _Count(columns[number], family.prefix if behind else "", schemas, matching, count)
        for number, behind, schemas, matching, count in rows
    ]


def _counting(family: Family, columns: Sequence[Column]) -> sql.Composed:
    """Return the query: each column twice where the schemas have a prefix in common."""
    forms = [(0, family.names)]
    forms += [(1, tuple(name.removeprefix(family.prefix) for name in family.names))] if family.prefix else []
    named = sql.SQL(", ").join(
        sql.SQL("names_{} (name) AS (SELECT unnest({}::text[]))").format(sql.SQL(str(form)), sql.Literal(list(names)))
        for form, names in forms
    )
    queries = [
        sql.SQL(
            "SELECT {number}::int, {form}::int, count(DISTINCT v) FILTER (WHERE v IN (SELECT name FROM {names})), "
            "count(*) FILTER (WHERE v IN (SELECT name FROM {names})), count(*) "
            "FROM (SELECT {column}::text AS v FROM {table} LIMIT {most}) t"
        ).format(
            number=sql.Literal(number), form=sql.Literal(form), names=_quoted(f"names_{form}"), column=_quoted(one.column),
            table=_quoted(one.place), most=sql.Literal(_MOST_ROWS),
        )
        for number, one in enumerate(columns)
        for form, _ in forms
    ]  # fmt: skip
    return sql.SQL("WITH {} {}").format(named, sql.SQL(" UNION ALL ").join(queries))


def _describe(connection: Connection, schemas: Sequence[Schema], best: _Count, columns: Sequence[Column]) -> Listing:
    """Read which schemas the column names, and whether the table tells who is active."""
    column = best.column
    siblings = tuple(one for one in columns if one.place == column.place and one != column)
    status = next((one for one in siblings if one.name in _STATUSES and one.category == "S"), None)
    query = sql.SQL("SELECT {column}::text, {status} FROM {table} LIMIT {most}").format(
        column=_quoted(column.column), table=_quoted(column.place), most=sql.Literal(_MOST_ROWS),
        status=sql.SQL("lower({}::text)").format(_quoted(status.column)) if status else sql.SQL("NULL"),
    )  # fmt: skip
    rows = connection.execute(query).fetchall()
    if sum(word == "active" for _, word in rows) * 2 < len(rows):
        status = None  # its words are others
    flag = next((one for name in _FLAGS for one in siblings if one.name == name and one.category == "B"), None)
    return Listing(
        column,
        best.prefix,
        frozenset(f"{best.prefix}{value}" for value, _ in rows) & {schema.name for schema in schemas},
        repeated=best.matching > best.schemas,
        has_blanks=any(value is None or not value.strip() for value, _ in rows),
        siblings=siblings,
        status=status or flag,
        kind=_kind(column, columns),
    )


def _kind(best: Column, columns: Sequence[Column]) -> str:
    """Name the library whose table it is, by the columns that go with it."""
    tables: dict[str, set[str]] = {}
    for one in columns:
        tables.setdefault(one.place, set()).add(one.name)
    if best.name == "schema_name" and any({"domain", "is_primary", "tenant_id"} <= names for names in tables.values()):
        return "django-tenants"
    return ""


def write_query(
    listing: Listing | None, family: Family, schemas: Sequence[Schema], shared: Collection[str] = ("public",)
) -> str:
    """Return the query that lists the tenants: by their table, else by a prefix or a table that only they have. Pure.

    Schemas that are `shared` are left out, as are rows without a name.
    """
    if listing is None:
        return _by_catalog(family, schemas)
    column = f"t.{listing.column.column}"
    schema = f"{sql.Literal(listing.prefix).as_string()} || {column}" if listing.prefix else column
    parts = [f"{schema if listing.column.category == 'N' else column} AS slug"]
    parts += [schema if schema == "t.schema_name" else f"{schema} AS schema_name"]
    if not listing.repeated:
        parts += [f"t.{name.column} AS name" for name in _name_column(listing)]
        parts += [f"{_status(listing.status)} AS status"] if listing.status else []
    distinct = "DISTINCT " if listing.repeated else ""
    named = sorted(set(shared) & listing.listed)
    conditions = [f"{schema} NOT IN ({_literals(named)})"] if named else []
    conditions += [f"trim({column}::text) <> ''"] if listing.has_blanks else []
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return f"SELECT {distinct}{', '.join(parts)} FROM {listing.column.place} t{where}"  # noqa: S608 - quoted by the server


def _name_column(listing: Listing) -> list[Column]:
    by_name: Mapping[str, Column] = {one.name: one for one in listing.siblings if one.category == "S"}
    return [by_name[name] for name in _NAME_COLUMNS if name in by_name][:1]


def _status(column: Column) -> str:
    if column.category == "B":
        return f"CASE WHEN t.{column.column} THEN 'active' ELSE 'inactive' END"
    return f"t.{column.column}"


def _by_catalog(family: Family, schemas: Sequence[Schema]) -> str:
    others = [one for one in schemas if one.name not in family.names]
    table = next(only_theirs(family, schemas), None)
    if family.prefix and not any(one.name.startswith(family.prefix) for one in others):
        named = f"starts_with(nspname::text, {_literals([family.prefix])})"
    elif table is None:
        named = f"nspname IN ({_literals(family.names)})"
    else:
        known = [one.name for one in others if table in one.tables]
        less = f" AND schemaname NOT IN ({_literals(known)})" if known else ""
        named = f"tablename = {_literals([table])}{less}"
        return f"SELECT schemaname AS slug, schemaname AS schema_name FROM pg_catalog.pg_tables WHERE {named}"  # noqa: S608
    return f"SELECT nspname AS slug, nspname AS schema_name FROM pg_catalog.pg_namespace WHERE {named}"  # noqa: S608


def _literals(names: Iterable[str]) -> str:
    return ", ".join(sql.Literal(name).as_string() for name in names)


def _quoted(name: str) -> sql.SQL:
    """Return a name that the server has quoted already."""
    return sql.SQL(name)
