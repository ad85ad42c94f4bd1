"""Which schemas of a database look like the tenants of one ERP: those that have the same tables, by majority."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from erpkit.database import TEMPLATE, Connection

__all__ = ["Family", "Schema", "find_families", "read_schemas"]

_ALIKE = 0.5  # of all their tables together, those that two schemas have in common

# Schemas with the same tables are one row, so that a thousand tenants do not send their tables a thousand times. What belongs to
# an extension is none of the ERP's.
_SCHEMAS = """
WITH owned AS (SELECT classid, objid FROM pg_catalog.pg_depend WHERE deptype = 'e'),
tables AS (
    SELECT c.relnamespace, array_agg(c.relname::text ORDER BY c.relname COLLATE "C") AS names,
           count(*) FILTER (WHERE NOT has_table_privilege(c.oid, 'SELECT')) AS refused
      FROM pg_catalog.pg_class c
     WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
       AND (c.oid) NOT IN (SELECT objid FROM owned WHERE classid = 'pg_class'::regclass)
     GROUP BY 1),
schemas AS (
    SELECT n.nspname::text AS name, coalesce(t.names, '{}') AS names, coalesce(t.refused, 0) AS refused,
           has_schema_privilege(n.oid, 'USAGE') AS usable, quote_ident(pg_get_userbyid(n.nspowner)) AS owner
      FROM pg_catalog.pg_namespace n LEFT JOIN tables t ON t.relnamespace = n.oid
     WHERE NOT starts_with(n.nspname::text, 'pg_') AND n.nspname <> 'information_schema'
       AND n.oid NOT IN (SELECT objid FROM owned WHERE classid = 'pg_namespace'::regclass))
SELECT names, array_agg(name), array_agg(usable), array_agg(refused), array_agg(owner) FROM schemas GROUP BY names
"""


@dataclass(frozen=True)
class Schema:
    """A schema with its tables: whether the login may use it, and how many of its tables it may not read.

    `owner` is written as SQL does.
    """

    name: str
    tables: frozenset[str]
    is_usable: bool
    refused: int
    owner: str

    @property
    def is_readable(self) -> bool:
        """Whether the login may read all of it."""
        return self.is_usable and not self.refused


@dataclass(frozen=True)
class Family:
    """Schemas that are alike, sorted by name; `tables` are those that most of them have."""

    schemas: tuple[Schema, ...]
    tables: frozenset[str]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the schemas."""
        return tuple(schema.name for schema in self.schemas)

    @property
    def different(self) -> tuple[str, ...]:
        """Those that do not have exactly the tables that most have."""
        return tuple(schema.name for schema in self.schemas if schema.tables != self.tables)

    @property
    def prefix(self) -> str:
        """What all names begin with, up to and with a `_`, `-` or `.`; "" without."""
        pairs = takewhile(lambda pair: pair[0] == pair[1], zip(min(self.names), max(self.names), strict=False))
        common = "".join(letter for letter, _ in pairs)
        end = max(common.rfind(letter) for letter in "_-.") + 1
        return common[:end] if all(len(name) > end for name in self.names) else ""


def read_schemas(connection: Connection) -> list[Schema]:
    """Return all schemas that are not PostgreSQL's or an extension's; one query, which reads the catalog alone."""
    return [
        Schema(name, frozenset(tables), usable, refused, owner)
        for tables, *columns in connection.execute(_SCHEMAS)
        for name, usable, refused, owner in zip(*columns, strict=True)
    ]


def find_families(schemas: Sequence[Schema]) -> list[Family]:
    """Return the families of two schemas or more, the largest first. Pure.

    `public` and `_template` are never tenants. Schemas without a table are like no other.
    """
    counts = Counter(schema.tables for schema in schemas if _may_be_tenant(schema))
    groups: list[tuple[frozenset[str], set[frozenset[str]]]] = []
    for tables, _ in sorted(counts.items(), key=lambda item: (-item[1], -len(item[0]), sorted(item[0]))):
        near = max(groups, key=lambda group: _likeness(group[0], tables), default=None)
        if near is not None and _likeness(near[0], tables) >= _ALIKE:
            near[1].add(tables)
        else:
            groups.append((tables, {tables}))
    families = [_family([one for one in schemas if _may_be_tenant(one) and one.tables in group]) for _, group in groups]
    return sorted((family for family in families if len(family.schemas) > 1), key=lambda family: -len(family.schemas))


def _family(schemas: Sequence[Schema]) -> Family:
    counts = Counter(table for schema in schemas for table in schema.tables)
    tables = frozenset(table for table, count in counts.items() if count * 2 > len(schemas))
    return Family(tuple(sorted(schemas, key=lambda schema: schema.name)), tables)


def _may_be_tenant(schema: Schema) -> bool:
    return bool(schema.tables) and schema.name not in ("public", TEMPLATE.schema)


def _likeness(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other)


def only_theirs(family: Family, schemas: Sequence[Schema]) -> Iterator[str]:
    """Yield tables that every schema of the family has, those first that no other schema has."""
    common = frozenset.intersection(*(schema.tables for schema in family.schemas))
    others = frozenset(table for one in schemas if one.name not in family.names for table in one.tables)
    yield from sorted(common - others)
    yield from sorted(common & others)
