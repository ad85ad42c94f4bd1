"""Sending again: the forwarder's checkpoint is moved back to a point, as for a broker that was wiped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from erpkit.database import IMPATIENT, Connection, Database, Tenant, note_failure
from erpkit.errors import ErpkitError, PlanChangedError
from erpkit.events.brokers.broker import FROM_BROKER
from erpkit.events.brokers.forward import wiped_uuid
from erpkit.events.checkpoints import group_lock
from erpkit.events.log import check_time_zones, name_log_behind
from erpkit.finding import Finding, not_read
from erpkit.plan import plan_id
from erpkit.plural import count_of
from erpkit.table import Column, Table

# What a broker lost (see `note_wiped`) before an offset and still is in the log.
_LOST = """
SELECT FROM erpkit_dead_letters d JOIN erpkit_events l ON l."offset" <= d."offset" AND NOT l.metadata ? %(from_broker)s
 WHERE d.handler = %(group)s AND d.uuid = %(wiped)s AND d.status = 'open'
"""

# By time, the first offset, as a clock that was set back leaves later events with earlier times.
_POINT = f"""
SELECT c."offset", coalesce(min(e."offset"), 0), count(e."offset"),
       (SELECT count(*) FROM ({_LOST} AND l."offset" < min(e."offset")) lost) FROM erpkit_checkpoints c LEFT JOIN (
       SELECT "offset" FROM erpkit_events WHERE "offset" >= CASE WHEN %(since)s::timestamptz IS NULL THEN %(offset)s ELSE
              (SELECT min("offset") FROM erpkit_events WHERE recorded_at >= %(since)s) END) e ON e."offset" <= c."offset"
 WHERE c.consumer_group = %(group)s GROUP BY 1
"""  # noqa: S608 - a constant

_REWIND = """
UPDATE erpkit_checkpoints SET "offset" = %s, updated_at = now() WHERE consumer_group = %s AND "offset" = %s
"""

_RESOLVE = f"""
UPDATE erpkit_dead_letters SET status = 'resolved', resolved_at = now(), resolved_by = current_user, reason = %(reason)s
 WHERE handler = %(group)s AND uuid = %(wiped)s AND status = 'open' AND NOT EXISTS ({_LOST} AND l."offset" < %(first)s)
"""  # noqa: S608 - a constant


@dataclass(frozen=True)
class Rewind:
    """From which offset the events of a tenant are sent again, how many there are, and the checkpoint before.

    `lost` is how many the broker has lost before that offset: they stay lost, and the dead letter that says so stays open.
    """

    tenant: Tenant
    first_offset: int
    events: int
    checkpoint: int
    lost: int = 0


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
        """What stays lost as it lies before the offset, and the tenants that could not be read."""
        problem = "the broker has lost events before the offset, too: they are not sent again"
        lost = [
            Finding("still lost", one.tenant.slug, problem,
                    remedy=f"erpkit events forward --tenant {one.tenant.slug} --from beginning",
                    evidence=(f"{count_of(one.lost, 'event')} before offset {one.first_offset}",))
            for one in self.rewinds if one.lost
        ]  # fmt: skip
        return [*lost, *not_read(self.errors)]

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
            values = {**_names(group), "offset": offset, "since": since}
            row = connection.execute(_POINT.encode(), values).fetchone()
            if row and row[2]:
                rewinds.append(Rewind(tenant, first_offset=row[1], events=row[2], checkpoint=row[0], lost=row[3]))
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
    reason = f"sent again from offset {one.first_offset}"
    connection.execute(_RESOLVE.encode(), {**_names(group), "first": one.first_offset, "reason": reason})


def _names(group: str) -> dict[str, object]:
    return {"group": group, "wiped": wiped_uuid(group), "from_broker": FROM_BROKER}
