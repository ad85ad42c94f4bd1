"""How a tenant's schema differs from `_template`, the canonical one: in words, and as the DDL that would mend it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from psycopg import sql

from erpkit.database import TEMPLATE, Connection, Tenant
from erpkit.tenants.ddl import mend_object, rank
from erpkit.tenants.grants import GrantChange, compare_grants, read_grants
from erpkit.tenants.objects import SCHEMA, Fingerprint, SchemaObject, read_fingerprints, read_objects

__all__ = ["Change", "Difference", "compare_schemas", "drift_script", "find_drift"]

Change = Literal["missing", "extra", "other"]

_LONGEST = 100  # characters of a definition that fit into a sentence


@dataclass(frozen=True)
class Difference:
    """One difference from `_template`; `ddl` would undo it, and `str()` puts it in words.

    What destroys data stands in `ddl` as a comment that begins with `-- destructive: `, for a person to decide on.
    """

    kind: str
    object: str
    change: Change
    canonical: str | None
    actual: str | None
    ddl: str

    def __str__(self) -> str:
        if self.change != "other":
            return f"{self.kind} {self.object} is {self.change}"
        if self._is_long:
            return f"{self.kind} {self.object} is defined otherwise"
        return f"{self.kind} {self.object} is {self.actual!r}, not {self.canonical!r}"

    @property
    def _is_long(self) -> bool:
        return any("\n" in (text or "") or len(text or "") > _LONGEST for text in (self.canonical, self.actual))


def find_drift(
    connection: Connection, tenants: Sequence[Tenant], *, fingerprints: Mapping[str, Fingerprint] | None = None
) -> dict[str, list[Difference]]:
    """Return what is different in each tenant's schema, by slug; a fixed number of queries for all.

    First a hash of each schema, made by PostgreSQL, is compared; the objects themselves are fetched only where it differs.
    `fingerprints` are those of all these schemas and the template's, if they were read before.
    A tenant that lacks migrations differs for that reason: migrate first, then look for drift. Where there is no
    `_template`, in a database that erpkit did not make, the first tenant stands for it.
    """
    schemas = [TEMPLATE.schema, *(tenant.schema for tenant in tenants)]
    prints = fingerprints or read_fingerprints(connection, schemas)
    model = TEMPLATE.schema if TEMPLATE.schema in prints or not tenants else tenants[0].schema
    differing = [tenant.schema for tenant in tenants if prints.get(tenant.schema) != prints.get(model)]
    objects = read_objects(connection, [model, *differing]) if differing else {}
    grants = read_grants(connection, schemas)
    template = objects.get(model, [])
    return {
        tenant.slug: sorted(
            [
                *(compare_schemas(template, objects[tenant.schema], tenant.schema) if tenant.schema in objects else ()),
                *map(_of_grant, compare_grants(tenant, grants[model], grants[tenant.schema])),
            ],
            key=str,
        )
        for tenant in tenants
    }


def compare_schemas(
    canonical: Iterable[SchemaObject], actual: Iterable[SchemaObject], schema: str = TEMPLATE.schema
) -> list[Difference]:
    """Compare two schemas object by object; `ddl` is written for the schema named. Pure.

    What belongs to a table that is extra, and the columns of one that is missing, go with that table.
    """
    wanted, found = _by_key(canonical), _by_key(actual)
    differences = [
        _difference(wanted.get(key), found.get(key), wanted, schema)
        for key in dict.fromkeys([*wanted, *found])
        if wanted.get(key) != found.get(key) and not _goes_along(key, wanted, found)
    ]
    return sorted(differences, key=str)


def drift_script(differences: Iterable[Difference]) -> list[str]:
    """Put the DDL of differences into an order in which it can be run: what others need comes before them."""
    return [difference.ddl for difference in sorted(differences, key=lambda d: rank(d.kind, d.change))]


_Key = tuple[str, str, str]


def _by_key(objects: Iterable[SchemaObject]) -> dict[_Key, SchemaObject]:
    return {(thing.kind, thing.table, thing.name): thing for thing in objects}


def _goes_along(key: _Key, wanted: Mapping[_Key, SchemaObject], found: Mapping[_Key, SchemaObject]) -> bool:
    kind, table, _ = key
    owners = [(owner, "", table) for owner in ("table", "view", "materialized view", "sequence")]
    if key not in wanted:
        return any(owner in found and owner not in wanted for owner in owners)
    return kind == "column" and any(owner in wanted and owner not in found for owner in owners)


def _difference(
    wanted: SchemaObject | None, found: SchemaObject | None, canonical: Mapping[_Key, SchemaObject], schema: str
) -> Difference:
    thing = wanted or found
    assert thing is not None
    change: Change = "extra" if wanted is None else "missing" if found is None else "other"
    columns = [one for (kind, table, _), one in canonical.items() if kind == "column" and table == thing.name]
    ddl = mend_object(wanted, found, columns if thing.kind == "table" else [])
    return Difference(
        thing.kind,
        f"{thing.table}.{thing.name}" if thing.kind in ("column", "constraint", "trigger") else thing.name,
        change,
        _words(wanted),
        _words(found),
        _in_schema(ddl, schema),
    )


def _words(thing: SchemaObject | None) -> str | None:
    if thing is None:
        return None
    text = thing.definition.replace(f"{SCHEMA}.", "").replace(SCHEMA, "the tenant's schema")
    return " ".join(text.split()) if thing.kind == "column" else text.strip()


def _in_schema(ddl: str, schema: str) -> str:
    return ddl.replace(f"{SCHEMA}.", f"{sql.Identifier(schema).as_string()}.").replace(SCHEMA, schema)


def _of_grant(change: GrantChange) -> Difference:
    words = f"{', '.join(change.privileges)} on {change.on} to {change.grantee}"
    missing = change.change == "missing"
    return Difference(
        change.kind, words, change.change, words if missing else None, None if missing else words, change.ddl
    )
