"""Drift: how a tenant's schema differs from `_template`, the canonical one, in words, as findings and as DDL."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from psycopg import sql

from erpkit.database import TEMPLATE, Connection, Tenant, has_schema, quote_name
from erpkit.errors import UsageError
from erpkit.finding import Finding
from erpkit.plural import count_of, part_of
from erpkit.result import Summary, SummaryResult
from erpkit.table import Column, Table
from erpkit.tenants.ddl import mend_object, rank
from erpkit.tenants.fingerprints import Fingerprint, read_fingerprints
from erpkit.tenants.objects import SCHEMA, SchemaObject, read_objects
from erpkit.tenants.roles import GrantChange, Grants, compare_grants, most_granted, read_grants, without_roles
from erpkit.visible import visible

Change = Literal["missing", "extra", "other", "unknown"]

NOTHING = "nothing"  # the measure if a database has one tenant and no template
VERSION_TABLES = ("goose_db_version", "schema_migrations")  # how the names of the migration tools' own tables begin
_LONGEST = 100  # characters of a definition that is shown in a sentence


@dataclass(frozen=True)
class Difference:
    """One difference from `_template`; `ddl` would undo it, and `str()` describes it.

    Statements in `ddl` that destroy data are comments that begin with `-- destructive: `; those that may fail on existing data begin
    with `-- fails where rows exist: ` or `-- fails where a value does not fit: `. A person decides on both. With the change
    `unknown`, the schema could not be compared: `object` says that it is locked or does not exist.
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
            return f"{self.kind} {self.object} is defined differently"
        return f"{self.kind} {self.object} is {self.actual!r}, not {self.canonical!r}"

    @property
    def is_lock(self) -> bool:
        """Whether the schema could not be compared because of a lock."""
        return self.kind == "lock"

    @property
    def _is_long(self) -> bool:
        return any("\n" in (text or "") or len(text or "") > _LONGEST for text in (self.canonical, self.actual))


@dataclass(frozen=True, repr=False)
class Drift(SummaryResult):
    """How the schemas of tenants differ from `measure`: `_template`, one of the tenants, or what most of them have."""

    measure: str
    differences: Mapping[str, Sequence[Difference]]
    target: str = ""

    @property
    def findings(self) -> list[Finding]:
        """One for each difference of each tenant, or one that says that nothing could be compared."""
        if not self.differences:
            return [Finding("no tenants", "", "there are no tenants to compare", remedy="erpkit doctor")]
        found = [one for slug, some in self.differences.items() for one in drift_findings(slug, some, self.measure)]
        return found or self._nothing_to_compare()

    def _nothing_to_compare(self) -> list[Finding]:
        if self.measure != NOTHING:
            return []
        words = "there is no _template, and no other tenant to compare it with"
        return [Finding("not compared", slug, words) for slug in self.differences]

    @property
    def not_compared(self) -> list[str]:
        """The tenants that could not be compared, or not as a whole."""
        return [slug for slug, some in self.differences.items() if any(one.change == "unknown" for one in some)]

    @property
    def differing(self) -> dict[str, Sequence[Difference]]:
        """The tenants that were compared, and differ."""
        unknown = set(self.not_compared)
        return {slug: some for slug, some in self.differences.items() if some and slug not in unknown}

    @property
    def table(self) -> Table[tuple[str, Difference]]:
        """One line a tenant and difference, in words and as the DDL that would undo it."""
        return drift_table(self.differences, self.measure)

    @property
    def script(self) -> str:
        """The DDL that would make each schema like the measure; statements that destroy data are comments."""
        parts = [
            "\n".join([f"-- tenant {visible(slug)}", *drift_script(some), ""])
            for slug, some in self.differences.items()
            if some
        ]
        return "\n".join(parts)

    @property
    def facts(self) -> dict[str, object]:
        """How many tenants there are, how many differ or could not be compared, and with what they were compared."""
        counts = {
            "tenants": len(self.differences),
            "differing": len(self.differing),
            "not compared": len(self.not_compared),
        }
        known = [one for some in self.differences.values() for one in some if one.change != "unknown"]
        return {**counts, "differences": len(known), "compared with": self.measure}

    @property
    def summary(self) -> Summary:
        """How many tenants differ, and how."""
        return Summary(f"{self}: {self.target}" if self.target else str(self), self.facts, self.findings)

    def __str__(self) -> str:
        if self.measure == NOTHING or not self.differences:
            return "nothing was compared"
        unknown = len(self.not_compared)
        left = f"; {unknown:,} could not be compared" if unknown else ""
        compared = len(self.differences) - unknown
        return f"{part_of(len(self.differing), compared, 'tenant', 'differs', 'differ')} from {self.measure}{left}"


def drift_findings(slug: str, differences: Iterable[Difference], measure: str = TEMPLATE.slug) -> list[Finding]:
    """Return a finding for each difference of a tenant; the same difference in many tenants is one cause."""
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
    return Table(_COLUMNS, rows, f"No difference from {measure}.", is_trouble=True, about=("drift",))


_COLUMNS = (
    Column[tuple[str, Difference]]("tenant", lambda row: row[0]),
    Column[tuple[str, Difference]]("difference", lambda row: str(row[1])),
    Column[tuple[str, Difference]]("ddl", lambda row: row[1].ddl),
)


def find_drift(
    connection: Connection, tenants: Sequence[Tenant], *, fingerprints: Mapping[str, Fingerprint] | None = None
) -> dict[str, list[Difference]]:
    """Return the differences of each tenant's schema, by slug; see `compare_tenants`."""
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

    First it compares hashes that PostgreSQL makes of each schema, and reads the objects only of schemas whose hash differs.
    `fingerprints` are those of all these schemas and of the template, if they were read before. If another session has locked a
    table exclusively for more than a second, the tenant's only difference says so. A tenant that lacks migrations differs for that
    reason: migrate first, then look for drift. Without a `_template`, in a database that erpkit did not make, the measure is what
    most of the tenants `among` have. Raises UsageError where the schema of `against` does not exist.
    """
    if against is not None and not has_schema(connection, against.schema):
        words = f"its schema {against.schema} does not exist, so nothing can be compared with it"
        raise UsageError(f"tenant {against.slug}: {words}")
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
    if model.schema in locks:  # no tenant can be compared with it
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
    """Compare with what most of the schemas have; of schemas with the same hash only one is read."""
    locks = {schema: one.lock for schema, one in prints.items() if one.lock is not None}
    grants = read_grants(connection, list(dict.fromkeys(schemas)))
    alike: dict[Fingerprint | None, list[str]] = {}
    for schema, granted in grants.items():
        if (
            granted and schema not in locks
        ):  # one with nothing in it has no hash, and a schema that is not there no grants
            alike.setdefault(prints.get(schema), []).append(schema)
    objects: dict[str, list[SchemaObject]] = {}
    if len(alike) > 1:
        objects, later = read_objects(connection, [same[0] for same in alike.values()])
        locks |= {schema: later[same[0]] for same in alike.values() if same[0] in later for schema in same}
    canonical = most_common([(objects[same[0]], len(same)) for same in alike.values() if same[0] in objects])
    read = {schema: objects[same[0]] for same in alike.values() if same[0] in objects for schema in same}
    given = most_granted([one for one in grants.values() if one])
    count = sum(map(len, alike.values()))
    return f"most of {count_of(count, 'tenant')}" if count > 1 else NOTHING, {
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
    if not grants:  # an existing schema has at least the entry of its owner
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
    """Return the most frequent definition of each object that most schemas have. Pure.

    Each schema comes with the number of schemas like it. Of two equally frequent definitions, the earlier one is taken.
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
    """Compare two schemas object by object; the DDL is for `schema`. Pure.

    The parts of an extra table, and the columns of a missing one, are not listed besides the table. Of the tables in which goose and
    golang-migrate keep versions only the presence is compared, as their form depends on the tool's release.
    """
    wanted, found = _by_key(canonical), _by_key(actual)
    differences = [
        _difference(wanted.get(key), found.get(key), wanted, schema)
        for key in dict.fromkeys([*wanted, *found])
        if wanted.get(key) != found.get(key)
        and not _goes_along(key, wanted, found)
        and not _is_the_tools(key, wanted, found)
    ]
    return sorted(differences, key=str)


def drift_script(differences: Iterable[Difference]) -> list[str]:
    """Return the DDL of differences in an order in which it can be run."""
    return [_commented(difference.ddl) for difference in in_order(differences)]


def _commented(ddl: str) -> str:
    """Comment out each line of a comment, as a name may contain a line end."""
    if not ddl.startswith("--"):
        return ddl
    return "\n".join(line if line.startswith("--") else f"-- {line}" for line in re.split(r"\r\n?|\n", ddl))


def in_order(differences: Iterable[Difference]) -> list[Difference]:
    """Sort differences as their DDL has to be run."""
    return sorted(differences, key=_place)


def _place(difference: Difference) -> tuple[int, bool]:
    # after the key that it refers to, which may be missing, too
    is_foreign_key = (difference.canonical or "").startswith("FOREIGN KEY")
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


def _is_the_tools(key: _Key, wanted: Mapping[_Key, SchemaObject], found: Mapping[_Key, SchemaObject]) -> bool:
    kind, table, name = key
    if not (table or name).startswith(VERSION_TABLES):
        return False
    return kind != "table" or (key in wanted and key in found)


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
    quoted = f"{quote_name(schema)}."
    literal = sql.quote(schema).strip()
    return ddl.replace(f"{SCHEMA}.", quoted).replace(f"'{SCHEMA}'", literal).replace(SCHEMA, schema)


def _of_grant(change: GrantChange) -> Difference:
    words = f"{', '.join(change.privileges)} on {change.on} to {change.grantee}"
    missing = change.change == "missing"
    return Difference(
        change.kind, words, change.change, words if missing else None, None if missing else words, change.ddl
    )
