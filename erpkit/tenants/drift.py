"""How a tenant's schema differs from `_template`, the canonical one: in words, as findings, and as the DDL that would mend it."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from psycopg import sql

from erpkit.database import TEMPLATE, Connection, Tenant
from erpkit.finding import Finding
from erpkit.result import Summary
from erpkit.table import Column, Table
from erpkit.tenants.ddl import mend_object, rank
from erpkit.tenants.grants import GrantChange, Grants, compare_grants, most_granted, read_grants, without_roles
from erpkit.tenants.objects import SCHEMA, Fingerprint, SchemaObject, read_fingerprints, read_objects
from erpkit.visible import visible

__all__ = [
    "Change",
    "Difference",
    "Drift",
    "compare_schemas",
    "compare_tenants",
    "drift_findings",
    "drift_script",
    "drift_table",
    "find_drift",
    "in_order",
]

Change = Literal["missing", "extra", "other", "unknown"]

_NOTHING = "nothing"  # the measure of the only tenant of a database without a template
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
    def is_lock(self) -> bool:
        """Whether a lock kept the schema from being compared."""
        return self.kind == "lock"

    @property
    def _is_long(self) -> bool:
        return any("\n" in (text or "") or len(text or "") > _LONGEST for text in (self.canonical, self.actual))


@dataclass(frozen=True)
class Drift:
    """How the schemas of tenants differ from `measure`: `_template`, one of the tenants, or what most of them have."""

    measure: str
    differences: Mapping[str, Sequence[Difference]]
    target: str = ""

    @property
    def findings(self) -> list[Finding]:
        """One a difference and tenant; where there was nothing to compare, or nothing to compare with, that is one, too."""
        if not self.differences:
            return [Finding("no tenants", "", "there are no tenants to compare", remedy="erpkit tenants list")]
        found = [one for slug, some in self.differences.items() for one in drift_findings(slug, some, self.measure)]
        return found or self._nothing_to_compare()

    def _nothing_to_compare(self) -> list[Finding]:
        if self.measure != _NOTHING:
            return []
        words = "there is no _template, and no other tenant to compare it with"
        return [Finding("not compared", slug, words) for slug in self.differences]

    @property
    def differing(self) -> dict[str, Sequence[Difference]]:
        """The tenants that differ, or that could not be compared."""
        return {slug: some for slug, some in self.differences.items() if some}

    @property
    def table(self) -> Table[tuple[str, Difference]]:
        """One line a tenant and difference, in words and as the DDL that would undo it."""
        return drift_table(self.differences, self.measure)

    @property
    def script(self) -> str:
        """The DDL that would make each schema like the measure; what destroys data is a comment, for a person to decide on."""
        parts = [
            "\n".join([f"-- tenant {visible(slug)}", *drift_script(some), ""]) for slug, some in self.differing.items()
        ]
        return "\n".join(parts)

    @property
    def facts(self) -> dict[str, object]:
        """How many tenants were compared, with what, and how many differ."""
        compared = {"tenants": len(self.differences), "differing": len(self.differing)}
        return {**compared, "differences": sum(map(len, self.differences.values())), "compared with": self.measure}

    @property
    def summary(self) -> Summary:
        """How many tenants differ, and in what."""
        return Summary(f"{self}: {self.target}" if self.target else str(self), self.facts, self.findings)

    def __str__(self) -> str:
        if self.measure == _NOTHING or not self.differences:
            return "nothing was compared"
        return f"{len(self.differing)} of {len(self.differences)} tenants differ from {self.measure}"

    def __repr__(self) -> str:
        return str(self.summary)

    def _repr_html_(self) -> str:
        return self.summary.html() + self.table._repr_html_()


def drift_findings(slug: str, differences: Iterable[Difference], measure: str = TEMPLATE.slug) -> list[Finding]:
    """Return a finding for each difference of a tenant: the same difference in many tenants is one cause."""
    remedy = (
        f"erpkit tenants repair {slug}"
        if measure == TEMPLATE.slug
        else f"erpkit tenants drift --ddl {shlex.quote(slug)}"
    )
    return [
        Finding("not read", slug, str(one), remedy="try again when that transaction has ended" if one.is_lock else "")
        if one.change == "unknown"
        else Finding("drift", slug, str(one), remedy=remedy)
        for one in differences
    ]


def drift_table(
    differences: Mapping[str, Sequence[Difference]], measure: str = TEMPLATE.slug
) -> Table[tuple[str, Difference]]:
    """Return one line a tenant and difference."""
    rows = [(slug, one) for slug, some in differences.items() for one in some]
    return Table(_COLUMNS, rows, f"No difference from {measure}.")


_COLUMNS = (
    Column[tuple[str, Difference]]("tenant", lambda row: row[0]),
    Column[tuple[str, Difference]]("difference", lambda row: str(row[1])),
    Column[tuple[str, Difference]]("ddl", lambda row: row[1].ddl),
)


def find_drift(
    connection: Connection, tenants: Sequence[Tenant], *, fingerprints: Mapping[str, Fingerprint] | None = None
) -> dict[str, list[Difference]]:
    """Return what is different in each tenant's schema, by slug; see `compare_tenants`."""
    return dict(compare_tenants(connection, tenants, fingerprints=fingerprints).differences)  # type: ignore[arg-type]


def compare_tenants(
    connection: Connection,
    tenants: Sequence[Tenant],
    *,
    against: Tenant | None = None,
    among: Sequence[Tenant] = (),
    fingerprints: Mapping[str, Fingerprint] | None = None,
    target: str = "",
) -> Drift:
    """Compare schemas with `_template`, or with the tenant `against`; a fixed number of queries for all.

    First a hash of each schema, made by PostgreSQL, is compared; the objects themselves are fetched only where it differs.
    `fingerprints` are those of all these schemas and the template's, if they were read before.
    A tenant in which somebody has locked a table exclusively has the one difference that says so, after a second.
    A tenant that lacks migrations differs for that reason: migrate first, then look for drift. Where there is no
    `_template`, in a database that erpkit did not make, the measure is what most of the tenants `among` have.
    """
    schemas = [(against or TEMPLATE).schema, *(tenant.schema for tenant in tenants)]
    prints = dict(fingerprints or read_fingerprints(connection, schemas))
    if against is None and TEMPLATE.schema not in prints:
        others = [tenant.schema for tenant in among if tenant.schema not in schemas]
        prints |= read_fingerprints(connection, others) if others else {}
        schemas += others
        return Drift(*_against_most(connection, tenants, schemas[1:], prints), target)
    model = against or TEMPLATE
    return Drift(model.slug, _against_one(connection, tenants, model, prints), target)


def _against_one(
    connection: Connection, tenants: Sequence[Tenant], model: Tenant, prints: Mapping[str, Fingerprint]
) -> dict[str, list[Difference]]:
    locks = {schema: one.lock for schema, one in prints.items() if one.lock is not None}
    differing = [
        tenant.schema
        for tenant in tenants
        if tenant.schema not in locks and prints.get(tenant.schema) != prints.get(model.schema)
    ]
    objects: dict[str, list[SchemaObject]] = {}
    if differing and model.schema not in locks:
        objects, later = read_objects(connection, list(dict.fromkeys([model.schema, *differing])))
        locks |= later
    if model.schema in locks:  # nothing can be compared with it
        locks |= {
            tenant.schema: f"in {model.schema}, {locks[model.schema]}"
            for tenant in tenants
            if tenant.schema not in locks
        }
    grants = read_grants(connection, [model.schema, *(tenant.schema for tenant in tenants)])
    canonical = objects.get(model.schema, [])
    given = without_roles(grants[model.schema], {model.role, model.reader}) if model.role else grants[model.schema]
    return {
        tenant.slug: _differences(tenant, canonical, objects.get(tenant.schema), given, grants[tenant.schema], locks)
        for tenant in tenants
    }


def _against_most(
    connection: Connection, tenants: Sequence[Tenant], schemas: Sequence[str], prints: Mapping[str, Fingerprint]
) -> tuple[str, dict[str, list[Difference]]]:
    """Compare with what most of the schemas have; of those with the same hash one is read, and counts for all of them."""
    locks = {schema: one.lock for schema, one in prints.items() if one.lock is not None}
    alike: dict[Fingerprint, list[str]] = {}
    for schema in dict.fromkeys(schemas):
        if schema in prints and schema not in locks:
            alike.setdefault(prints[schema], []).append(schema)
    objects: dict[str, list[SchemaObject]] = {}
    if len(alike) > 1:
        objects, later = read_objects(connection, [same[0] for same in alike.values()])
        locks |= {schema: later[same[0]] for same in alike.values() if same[0] in later for schema in same}
    canonical = most_common([(objects[same[0]], len(same)) for same in alike.values() if same[0] in objects])
    read = {schema: objects[same[0]] for same in alike.values() if same[0] in objects for schema in same}
    grants = read_grants(connection, list(dict.fromkeys(schemas)))
    given = most_granted([one for one in grants.values() if one])
    count = sum(map(len, alike.values()))
    return f"most of {count} tenants" if count > 1 else _NOTHING, {
        tenant.slug: _differences(tenant, canonical, read.get(tenant.schema), given, grants[tenant.schema], locks)
        for tenant in tenants
    }


def _differences(
    tenant: Tenant,
    canonical: Sequence[SchemaObject],
    objects: Sequence[SchemaObject] | None,
    given: Grants,
    grants: Grants,
    locks: Mapping[str, str],
) -> list[Difference]:
    if not grants:  # every schema has an owner, and so an entry of its own
        words = f"its schema {tenant.schema} does not exist"
        return [Difference("schema", words, "unknown", None, None, f"-- could not be compared: {words}")]
    differences = [_of_grant(one) for one in compare_grants(tenant, given, grants)]
    if tenant.schema in locks:
        words = " ".join(locks[tenant.schema].split())
        differences.append(Difference("lock", words, "unknown", None, None, f"-- could not be compared: {words}"))
    elif objects is not None:
        differences += compare_schemas(canonical, objects, tenant.schema)
    return sorted(differences, key=str)


def most_common(schemas: Sequence[tuple[Sequence[SchemaObject], int]]) -> list[SchemaObject]:
    """Return, of each object, the definition that most schemas have; none of one that most do not have. Pure.

    Each schema comes with how many there are like it. Of two definitions that are as frequent the earlier one is taken.
    """
    keys = dict.fromkeys(key for objects, _ in schemas for key in _by_key(objects))
    found = [(_by_key(objects), weight) for objects, weight in schemas]
    chosen = []
    for key in keys:
        counts: Counter[SchemaObject | None] = Counter()
        for objects, weight in found:
            counts[objects.get(key)] += weight
        most = max(counts.values())
        chosen.append(next(one for one in sorted(counts, key=lambda one: one is None) if counts[one] == most))
    return [one for one in chosen if one is not None]


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


def _of_grant(change: GrantChange) -> Difference:
    words = f"{', '.join(change.privileges)} on {change.on} to {change.grantee}"
    missing = change.change == "missing"
    return Difference(
        change.kind, words, change.change, words if missing else None, None if missing else words, change.ddl
    )
