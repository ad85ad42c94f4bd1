"""What a migration run would do: decided from facts, without touching the database."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from erpkit.database import TEMPLATE, Tenant
from erpkit.errors import PlanChangedError
from erpkit.finding import Finding, find_unseen
from erpkit.migrations import golang
from erpkit.migrations.files import Migration, Step, default_table
from erpkit.migrations.lint import REACHES, LintReport, lint_report
from erpkit.migrations.parser import Direction
from erpkit.migrations.script import is_atomic
from erpkit.migrations.status import MOST_LINES, FleetStatus
from erpkit.plan import plan_id
from erpkit.plural import count_of
from erpkit.table import Column, Table

_BEHIND = ("pending", "out of order")
_SHOWN = 4  # migrations, or tenants, that a line names
CANARIES = "canaries"

Milliseconds = Mapping[
    tuple[str, int, Direction], float
]  # how long each migration took, by module, version and direction


@dataclass(frozen=True)
class TenantPlan:
    """What one tenant gets: migrations, each with its direction, in order."""

    tenant: Tenant
    steps: tuple[Step, ...]
    new_tables: frozenset[str] = frozenset()  # goose's version tables that it does not have yet

    @property
    def migrations(self) -> tuple[Migration, ...]:
        """The migrations alone."""
        return tuple(migration for migration, _ in self.steps)


@dataclass(frozen=True)
class Wave:
    """Tenants that are migrated side by side; the next wave begins when all of them are done."""

    name: str
    tenants: tuple[TenantPlan, ...]


_Line = tuple[str, list[TenantPlan]]  # a wave, and tenants that get the same
_Script = tuple[Migration, Direction, str, int]  # a statement, and how many tenants get it


@dataclass(frozen=True)
class MigrationPlan:
    """Who gets which migrations, in waves: `_template`, then the canaries, then the rest.

    `skipped` are tenants that fleet operations leave alone, `refused` those that cannot be migrated as they are, or read, and
    `held` those that would have come after `_template` or a canary that is refused; each maps a slug to the reason. `id` is a
    hash of what would be done: it changes as soon as anything of it does. `retries_dirty` says that what stopped half way may
    be run again.

    `before` is what was found when it was made, `shared_schemas` are those that are declared, `extensions` those that are
    installed, with the schema of each, `milliseconds` how long migrations took before, and `workers` how many tenants
    are to be migrated side by side: for people, and not part of the id.
    """

    direction: str
    waves: tuple[Wave, ...]
    skipped: Mapping[str, str]
    refused: Mapping[str, str]
    before: FleetStatus | None = field(default=None, compare=False, repr=False)
    milliseconds: Milliseconds = field(default_factory=dict, compare=False, repr=False)
    workers: int = field(default=3, compare=False, repr=False)
    named: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    held: Mapping[str, str] = field(default_factory=dict)
    retries_dirty: bool = False
    shared_schemas: tuple[str, ...] = field(default=(), compare=False, repr=False)
    extensions: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def id(self) -> str:
        """`migrate-` and ten hexadecimal digits that stand for exactly this plan."""
        digests = {m: [_digest(m.content.up), _digest(m.content.down), *_unusual(m)] for m in self.migrations}
        steps = [
            (wave.name, plan.tenant.schema, [(m.name, direction, digests[m]) for m, direction in plan.steps])
            for wave in self.waves
            for plan in wave.tenants
        ]
        return plan_id("migrate", [self.direction, steps])

    @property
    def tenants(self) -> tuple[TenantPlan, ...]:
        """The tenants of all waves."""
        return tuple(plan for wave in self.waves for plan in wave.tenants)

    @cached_property
    def migrations(self) -> tuple[Migration, ...]:
        """Every migration that would run somewhere, once, in order."""
        return tuple(dict.fromkeys(m for plan in self.tenants for m in plan.migrations))

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.waves

    @property
    def step_count(self) -> int:
        """How many migrations would run, over all tenants."""
        return sum(len(plan.steps) for plan in self.tenants)

    @property
    def size(self) -> int:
        """How many schemas would be migrated."""
        return len(self.tenants)

    @cached_property
    def estimate(self) -> Estimate:
        """How long it is going to take."""
        return estimate_plan(self, self.milliseconds, self.workers)

    @cached_property
    def lint(self) -> LintReport:
        """What squawk says of the Up statements, and which reach beyond the tenant; found out when this is first used."""
        ups = [migration for migration, direction, _ in self.sql() if direction == "up"]
        return lint_report(ups, self.shared_schemas, self.extensions)

    @property
    def reaches(self) -> bool:
        """Whether a statement reaches beyond the tenant: what comes of it for the second tenant is not what the plan says."""
        return any(finding.level == "error" and finding.rule in REACHES for finding in self.lint.findings)

    @property
    def facts(self) -> dict[str, object]:
        """How much there is to do, and who is left alone."""
        pending = {status.tenant for status in self.before.found if status.pending} if self.before else ()
        return {
            "found behind": len(pending), "planned": self.step_count, "applied": 0, "failed": 0, "not started": 0,
            "skipped": ", ".join(self.skipped) or "none",
        }  # fmt: skip

    @property
    def refusals(self) -> list[Finding]:
        """The tenants that cannot be migrated as they are, or could not be read, and those that are held for that reason."""
        unread = self.before.applied.errors if self.before else {}
        tables = unread.keys() - (self.before.applied.unread if self.before else {})
        return [
            Finding(
                "not read" if name in unread else "refused", name, reason, remedy=_remedy(name, reason),
                of="table" if name in tables else "tenant",
            )
            for name, reason in self.refused.items()
        ] + [Finding("held", slug, f"not planned: {reason}") for slug, reason in self.held.items()]  # fmt: skip

    @property
    def unseen(self) -> list[Finding]:
        """The tenants that were asked for by name and are skipped, and that no tenant is active."""
        others = [tenant for tenant in (self.before.tenants if self.before else ()) if tenant.schema != TEMPLATE.schema]
        if not others:
            return []
        active = [tenant for tenant in others if tenant.is_active]
        return [one for one in find_unseen(active, self.skipped, self.named) if one.severity != "info"]

    @property
    def findings(self) -> list[Finding]:
        """Who is refused, held or skipped and why, what the linter says, who is behind, and what else was found to be wrong."""
        return [*self.refusals, *self.unseen, *self.lint.all_findings, *self._found()]

    def _found(self) -> Iterator[Finding]:
        planned = {plan.tenant.slug for plan in self.tenants} if self.direction == "up" else set()
        for finding in self.before.findings if self.before else ():
            if finding.subject not in self.refused and (finding.kind not in _BEHIND or finding.subject in planned):
                is_retried = (
                    self.retries_dirty and finding.kind == "dirty"
                )  # by this plan: its own command helps no more
                yield replace(finding, remedy="") if is_retried else finding

    @property
    def table(self) -> Table[_Line]:
        """One line a schema, in the order in which they are migrated; with more than 40, a line for all that get the same."""
        alike: dict[object, _Line] = {}
        for wave in self.waves:
            for plan in wave.tenants:
                key = plan.tenant.slug if self.size <= MOST_LINES else (wave.name, plan.steps)
                alike.setdefault(key, (wave.name, []))[1].append(plan)
        return Table(_COLUMNS, list(alike.values()), "There is nothing to do.")

    @property
    def whole_table(self) -> Table[_Line]:
        """The table for a program: one line a schema, however many there are, with all its migrations."""
        lines: list[_Line] = [(wave.name, [plan]) for wave in self.waves for plan in wave.tenants]
        columns = [replace(one, value=_all_steps) if one.name == "migrations" else one for one in _COLUMNS]
        return Table(columns, lines, "There is nothing to do.")

    @property
    def tables(self) -> list[Table[_Line]]:
        """Who gets what."""
        return [self.table]

    @property
    def scripts(self) -> Table[_Script]:
        """The SQL that would run: one line a statement, once for all tenants that get it."""
        tenants = Counter(step for plan in self.tenants for step in plan.steps)
        rows = [(m, direction, one, tenants[m, direction]) for m, direction, texts in self.sql() for one in texts]
        return Table(_SCRIPTS, rows, "There is no SQL to run.")

    def __str__(self) -> str:
        if self.is_empty:
            return "nothing to do"
        way = "" if self.direction == "up" else f" ({self.direction})"
        return f"{count_of(self.step_count, 'migration')}{way} on {count_of(self.size, 'schema')}, {self.estimate}"

    def sql(self) -> Iterator[tuple[Migration, Direction, tuple[str, ...]]]:
        """Yield the SQL that would run, once for each migration and direction, for people to read.

        Where a file takes values from the environment they may be secret: its statements are left out.
        """
        for migration, direction in dict.fromkeys(step for plan in self.tenants for step in plan.steps):
            hidden = ("-- left out: the file holds values of the environment (ENVSUB)",)
            yield (
                migration,
                direction,
                hidden if migration.content.uses_environment else migration.content.statements(direction),
            )

    def check(self, confirm: str) -> None:
        """Raise PlanChangedError unless `confirm` is this plan's id."""
        PlanChangedError.check(confirm, self.id)


def _remedy(name: str, reason: str) -> str:
    if reason.startswith("out of order"):
        return f"erpkit migrate up --tenant {name} --out-of-order"
    if golang.UNTIL_FORCED in reason:
        module = reason.partition(" is at ")[0].split()[-1]
        return f"erpkit migrate force VERSION --module {module} --tenant {name}  # once it is fixed by hand"
    if reason.startswith("dirty"):
        return f"erpkit migrate up --tenant {name} --retry-dirty  # once it is fixed by hand"
    if reason.startswith("edited"):
        return "restore the file, and put the change into a new migration"
    return "install the release that has the file" if reason.startswith("unknown") else ""


def _who(line: _Line) -> str:
    slugs = [plan.tenant.slug for plan in line[1]]
    return slugs[0] if len(slugs) == 1 else f"{len(slugs):,}: {_some(slugs)}"


def _some(names: Sequence[str]) -> str:
    """Name all of a few; of more the first ones and the last."""
    return ", ".join(names) if len(names) <= _SHOWN else f"{', '.join(names[: _SHOWN - 1])} … {names[-1]}"


def _what(line: _Line) -> str:
    return _some(_all_steps(line))


def _all_steps(line: _Line) -> list[str]:
    return [m.name + (f" ({way})" if way == "down" else "") for m, way in line[1][0].steps]


_COLUMNS = (
    Column[_Line]("wave", lambda line: line[0]),
    Column[_Line]("tenant", _who, is_name=True),
    Column[_Line]("migrations", _what),
    Column[_Line]("count", lambda line: len(line[1][0].steps)),
    Column[_Line]("statements", lambda line: sum(len(m.content.statements(way)) for m, way in line[1][0].steps)),
)
_SCRIPTS = (
    Column[_Script]("migration", lambda row: row[0].name),
    Column[_Script]("direction", lambda row: row[1]),
    Column[_Script]("tenants", lambda row: row[3]),
    Column[_Script]("in a transaction", lambda row: is_atomic(row[0], row[1])),
    Column[_Script]("statement", lambda row: row[2]),
)


@dataclass(frozen=True)
class Estimate:
    """`seconds` for the migrations that ran somewhere before; `unknown` are those that never did, by name."""

    seconds: float
    unknown: tuple[str, ...]

    def __str__(self) -> str:
        if not self.unknown:
            return _span(self.seconds)
        never = f"{_some(self.unknown)} never ran before"
        return f"{_span(self.seconds)} for the rest; {never}" if self.seconds else f"no estimate: {never}"


def estimate_plan(plan: MigrationPlan, milliseconds: Milliseconds, workers: int = 3) -> Estimate:
    """Add up the medians of earlier runs, wave by wave: the tenants of a wave share the workers."""
    seconds = 0.0
    for wave in plan.waves:
        times = [
            sum(milliseconds.get((m.module, m.version, direction), 0.0) for m, direction in tenant.steps)
            for tenant in wave.tenants
        ]
        seconds += max(sum(times) / workers, max(times)) / 1000
    steps = dict.fromkeys(step for tenant in plan.tenants for step in tenant.steps)
    unknown = dict.fromkeys(m.name for m, direction in steps if (m.module, m.version, direction) not in milliseconds)
    return Estimate(seconds, tuple(unknown))


def _span(seconds: float) -> str:
    if seconds < 1:
        return "less than 1 s"
    if seconds < 120:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 7200 else f"about {seconds / 3600:.1f} h"


def _unusual(migration: Migration) -> list[str]:
    """Return what decides how a file is run and is not in its statements, where it is not the usual."""
    table = [] if migration.version_table == default_table(migration.module) else [migration.version_table]
    return [*table, *([] if migration.content.use_transaction else ["NO TRANSACTION"])]


def _digest(statements: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(statements).encode()).hexdigest()
