"""How a tenant's schema differs from `_template`, the canonical one: in words, and as the DDL that would mend it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from psycopg import sql

from erpkit.database import TEMPLATE, Connection, Tenant
from erpkit.tenants.ddl import mend_object, rank
from erpkit.tenants.grants import GrantChange, compare_grants, read_grants
from erpkit.tenants.objects import SCHEMA, Fingerprint, SchemaObject, read_fingerprints, read_objects

__all__ = ["Change", "Difference", "compare_schemas", "drift_script", "find_drift", "in_order"]

Change = Literal["missing", "extra", "other", "unknown"]

_LONGEST = 100  # characters of a definition that fit into a sentence


@dataclass(frozen=True)
class Difference:
    """One difference from `_template`; `ddl` would undo it, and `str()` puts it in words.

    What destroys data stands in `ddl` as a comment that begins with `-- destructive: `, and what fails on some data as one that
    begins with `-- fails where rows exist: ` or `-- fails where a value does not fit: `, for a person to decide on. With the
    change `unknown` the schema could not be compared: `object` names the lock that it has, or says that it is gone.
    """

    kind: str
    object: str
    change: Change
    canonical: str | None
    actual: str | None
    ddl: str

    def __str__(self) -> str:
        if self.change == "unknown":
            return f"could not be compared: {self.object}"
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
    A tenant in which somebody has locked a table exclusively has the one difference that says so, after a second.
    A tenant that lacks migrations differs for that reason: migrate first, then look for drift. Where there is no
    `_template`, in a database that erpkit did not make, the first tenant that can be read stands for it.
    """
    schemas = [TEMPLATE.schema, *(tenant.schema for tenant in tenants)]
    prints = fingerprints or read_fingerprints(connection, schemas)
    model = _model(tenants, prints)
    locks = {schema: one.lock for schema, one in prints.items() if one.lock is not None}
    differing = [schema for schema in schemas[1:] if schema not in locks and prints.get(schema) != prints.get(model)]
    objects: dict[str, list[SchemaObject]] = {}
    if differing and model not in locks:
        objects, later = read_objects(connection, list(dict.fromkeys([model, *differing])))
        locks |= later
    grants = read_grants(connection, schemas)
    found: dict[str, list[Difference]] = {}
    for tenant in tenants:
        if not grants[tenant.schema]:  # every schema has an owner, and so an entry of its own
            words = f"its schema {tenant.schema} does not exist"
            found[tenant.slug] = [
                Difference("schema", words, "unknown", None, None, f"-- could not be compared: {words}")
            ]
            continue
        differences = [_of_grant(one) for one in compare_grants(tenant, grants[model], grants[tenant.schema])]
        if lock := _lock(locks, model, tenant.schema):
            differences.append(lock)
        elif tenant.schema in objects:
            differences += compare_schemas(objects[model], objects[tenant.schema], tenant.schema)
        found[tenant.slug] = sorted(differences, key=str)
    return found


def _model(tenants: Sequence[Tenant], prints: Mapping[str, Fingerprint]) -> str:
    if TEMPLATE.schema in prints:
        return TEMPLATE.schema
    readable = (tenant.schema for tenant in tenants if tenant.schema in prints and prints[tenant.schema].lock is None)
    return next(readable, TEMPLATE.schema)


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
    return [_commented(difference.ddl) for difference in in_order(differences)]


def _commented(ddl: str) -> str:
    """Let what is a comment stay one: a name with a line end in it would make a statement of its second line."""
    if not ddl.startswith("--"):
        return ddl
    return "\n".join(line if line.startswith("--") else f"-- {line}" for line in re.split(r"\r\n?|\n", ddl))


def in_order(differences: Iterable[Difference]) -> list[Difference]:
    """Sort differences as their DDL has to be run."""
    return sorted(differences, key=_place)


def _place(difference: Difference) -> tuple[int, bool]:
    is_foreign_key = (difference.canonical or "").startswith("FOREIGN KEY")  # the key that it needs may be made as well
    return rank(difference.kind, difference.change), is_foreign_key


_Key = tuple[str, str, str]

_OWNERS = ("table", "view", "materialized view", "foreign table", "sequence", "function", "procedure")
_OF_TABLE = ("column", "constraint", "trigger", "policy", "rule")


def _by_key(objects: Iterable[SchemaObject]) -> dict[_Key, SchemaObject]:
    return {(thing.kind, thing.table, thing.name): thing for thing in objects}


def _goes_along(key: _Key, wanted: Mapping[_Key, SchemaObject], found: Mapping[_Key, SchemaObject]) -> bool:
    kind, table, _ = key
    owners = [(owner, "", table) for owner in _OWNERS]
    if key not in wanted:
        return any(owner in found and owner not in wanted for owner in owners)
    return kind.startswith(("column", "owner of ")) and any(owner in wanted and owner not in found for owner in owners)


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
        f"{thing.table}.{thing.name}" if thing.kind in _OF_TABLE else thing.name,
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
    quoted = f"{sql.Identifier(schema).as_string()}."
    literal = sql.quote(schema).strip()
    return ddl.replace(f"{SCHEMA}.", quoted).replace(f"'{SCHEMA}'", literal).replace(SCHEMA, schema)


def _lock(locks: Mapping[str, str], model: str, schema: str) -> Difference | None:
    """Say that a schema could not be compared, because of a lock in it or in the one it is compared with."""
    if schema not in locks and model not in locks:
        return None
    words = " ".join((locks[schema] if schema in locks else f"in {model}, {locks[model]}").split())
    return Difference("lock", words, "unknown", None, None, f"-- could not be compared: {words}")


def _of_grant(change: GrantChange) -> Difference:
    words = f"{', '.join(change.privileges)} on {change.on} to {change.grantee}"
    missing = change.change == "missing"
    return Difference(
        change.kind, words, change.change, words if missing else None, None if missing else words, change.ddl
    )
