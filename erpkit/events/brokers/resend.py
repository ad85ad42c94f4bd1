"""Sending again: the forwarder's checkpoint is moved back to a point, as for a broker that was wiped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from erpkit.database import IMPATIENT, Connection, Database, Tenant, note_failure
from erpkit.errors import ErpkitError, PlanChangedError
from erpkit.events.brokers.forward import wiped_uuid
from erpkit.events.checkpoints import group_lock
from erpkit.events.log import check_time_zones, name_log_behind
from erpkit.finding import Finding, not_read
from erpkit.plan import plan_id
from erpkit.plural import count_of
from erpkit.table import Column, Table

# By time, the first offset, as a clock that was set back leaves later events with earlier times.
_POINT = """
SELECT c."offset", coalesce(min(e."offset"), 0), count(e."offset") FROM erpkit_checkpoints c LEFT JOIN (
       SELECT "offset" FROM erpkit_events WHERE "offset" >= CASE WHEN %(since)s::timestamptz IS NULL THEN %(offset)s ELSE
              (SELECT min("offset") FROM erpkit_events WHERE recorded_at >= %(since)s) END) e ON e."offset" <= c."offset"
 WHERE c.consumer_group = %(group)s GROUP BY 1
"""

_REWIND = """
UPDATE erpkit_checkpoints SET "offset" = %s, updated_at = now() WHERE consumer_group = %s AND "offset" = %s
"""

_RESOLVE = """
UPDATE erpkit_dead_letters SET status = 'resolved', resolved_at = now(), resolved_by = current_user, reason = %s
 WHERE handler = %s AND uuid = %s AND status = 'open'
"""


@dataclass(frozen=True)
class Rewind:
    """From which offset the events of a tenant are sent again, how many there are, and the checkpoint before."""

    tenant: Tenant
    first_offset: int
    events: int
    checkpoint: int


@dataclass(frozen=True)
class ResendPlan:
    """Which events the forwarder would send again, and `done` once its checkpoints are moved back."""

    group: str
    rewinds: tuple[Rewind, ...]
    errors: Mapping[str, str] = field(default_factory=dict)
    done: bool = False

    @property
    def id(self) -> str:
        """`resend-` and ten hexadecimal digits that stand for exactly these tenants and offsets."""
        return plan_id(
            "resend", [self.group, [(r.tenant.slug, r.first_offset, r.events, r.checkpoint) for r in self.rewinds]]
        )

    @property
    def size(self) -> int:
        """How many events there are."""
        return sum(one.events for one in self.rewinds)

    @property
    def facts(self) -> dict[str, object]:
        """How many events, of how many tenants."""
        return {"events": self.size, "tenants": len(self.rewinds)}

    @property
    def findings(self) -> list[Finding]:
        """The tenants that could not be read."""
        return not_read(self.errors)

    @property
    def tables(self) -> tuple[Table[Rewind], ...]:
        """One row per tenant."""
        return (Table(_REWINDS, self.rewinds, "No event from there on was forwarded."),)

    def __str__(self) -> str:
        what = f"{count_of(self.size, 'event')} of {count_of(len(self.rewinds), 'tenant')} again"
        return f"`erpkit events forward` sends {what}" if self.done else f"send {what}"


_REWINDS = (
    Column[Rewind]("tenant", lambda one: one.tenant.slug),
    Column[Rewind]("from offset", lambda one: one.first_offset),
    Column[Rewind]("to offset", lambda one: one.checkpoint),
    Column[Rewind]("events", lambda one: one.events, bar=True),
)


def plan_resend(
    database: Database, tenants: Sequence[Tenant], group: str, offset: int = 1, since: datetime | None = None
) -> ResendPlan:
    """Plan to send again what was forwarded from `offset` on, or what was recorded since a time. It only reads."""
    check_time_zones(since=since)
    rewinds: list[Rewind] = []
    errors: dict[str, str] = {}
    for tenant in tenants:
        with note_failure(tenant, errors), name_log_behind(tenant), database.tenant_transaction(tenant) as connection:
            connection.execute(IMPATIENT)
            row = connection.execute(_POINT, {"group": group, "offset": offset, "since": since}).fetchone()
            if row and row[2]:
                rewinds.append(Rewind(tenant, first_offset=row[1], events=row[2], checkpoint=row[0]))
    return ResendPlan(group, tuple(rewinds), errors)


def run_resend(database: Database, plan: ResendPlan, confirm: str) -> ResendPlan:
    """Move the forwarder's checkpoints back if `confirm` is the plan's id; a forwarder that runs goes on from there.

    Raises ErpkitError, naming the tenant, where the forwarder has moved on since the plan was made.
    """
    PlanChangedError.check(confirm, plan.id)
    for one in plan.rewinds:
        with database.tenant_transaction(one.tenant, write=True) as connection:
            _rewind(connection, plan.group, one)
    return replace(plan, done=True)


def _rewind(connection: Connection, group: str, one: Rewind) -> None:
    connection.execute(f"SELECT pg_advisory_xact_lock({group_lock('current_schema()', '%s')})", [group])
    if connection.execute(_REWIND, [one.first_offset - 1, group, one.checkpoint]).rowcount != 1:
        raise ErpkitError(f"tenant {one.tenant.slug}: {group} has moved on meanwhile: plan again")
    connection.execute(_RESOLVE, [f"sent again from offset {one.first_offset}", group, wiped_uuid(group)])
