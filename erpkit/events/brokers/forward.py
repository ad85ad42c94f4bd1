"""Forwarding a tenant's log to the broker: at least once, in order, from a checkpoint of its own, and past what it refuses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import NAMESPACE_OID, UUID, uuid5

from erpkit.database import (
    Connection,
    Database,
    Errors,
    Tenant,
    note_failure,
    read_tables,
)
from erpkit.database.in_use import Leaving
from erpkit.errors import TenantNotActiveError
from erpkit.events.brokers.broker import FROM_BROKER, LIVE, Broker, RefusedError, Route
from erpkit.events.checkpoints import move_checkpoint, read_batch
from erpkit.events.consumer import ConsumerGroup
from erpkit.events.lag import GroupLag
from erpkit.events.log import name_log_behind
from erpkit.events.message import Message
from erpkit.finding import Finding
from erpkit.plural import count_of

BATCH = 500
_SLICE = 100  # events, after which a batch ends where a session waits for the tenant
_WIPED = "WipedError:"

_LETTER = """
INSERT INTO erpkit_dead_letters (handler, uuid, "offset", topic, error, attempts) VALUES (%s, %s, %s, %s, %s, 1)
    ON CONFLICT (handler, uuid) DO UPDATE SET "offset" = EXCLUDED."offset", error = EXCLUDED.error, failed_at = now(), status = 'open'
"""

_UNLESS_NOTED = b"""
    WHERE erpkit_dead_letters.status <> 'open' OR erpkit_dead_letters."offset" < EXCLUDED."offset"
"""

_RESOLVE = """
UPDATE erpkit_dead_letters SET status = 'resolved', resolved_at = now(), resolved_by = current_user, reason = 'forwarded'
 WHERE handler = %s AND uuid = ANY (%s) AND status = 'open'
"""

# An event that came from the broker is not forwarded back, and so does not wait.
_LAG = """
SELECT {slug}, {group}, '*', w.events, w.oldest, coalesce(c."offset", 0), c.updated_at, NULL, 0
  FROM (VALUES ({group})) g (name) LEFT JOIN {schema}.erpkit_checkpoints c ON c.consumer_group = g.name
 CROSS JOIN LATERAL (SELECT count(*) AS events, min(recorded_at) AS oldest FROM {schema}.erpkit_events e
                      WHERE e."offset" > coalesce(c."offset", 0) AND NOT e.metadata ? {from_broker}) w
"""


@dataclass(frozen=True)
class Forwarded:
    """How many events of a tenant were forwarded, the last offset that is done with, and how many the broker refused for good.

    `lost` tells that the broker has lost what it was sent up to that offset.
    """

    tenant: str
    events: int
    offset: int
    refused: int = 0
    lost: bool = False


def forward_group(broker: Broker) -> str:
    """Return the consumer group that stands for a broker in `erpkit_checkpoints`."""
    return group_name(broker.scheme)


def group_name(scheme: str) -> str:
    """Return the consumer group that stands for brokers with such a URL."""
    return f"forward.{scheme}"


def forward(database: Database, tenant: Tenant, broker: Broker, *, batch: int = BATCH) -> Forwarded:
    """Publish what follows the broker's checkpoint in the tenant's log, until nothing is left.

    The checkpoint moves once the broker has acknowledged the whole batch. After a fault a batch is published again, under
    the same message ids. What the broker refuses for good becomes a dead letter of the forwarder, and the rest goes on. Where
    another forwarder works on the tenant, this one does nothing there. It ends early where a session waits to suspend, rename or drop
    the tenant. Raises BrokerError, and TenantNotActiveError for a tenant that is not active.
    """
    total, has_more = _forward_batch(database, tenant, broker, batch)
    while has_more:
        try:
            done, has_more = _forward_batch(database, tenant, broker, batch)
        except TenantNotActiveError:  # what was forwarded is to be told
            break
        total = Forwarded(tenant.slug, total.events + done.events, done.offset, total.refused + done.refused)
    return total


def _forward_batch(database: Database, tenant: Tenant, broker: Broker, limit: int) -> tuple[Forwarded, bool]:
    """Publish one batch; return what became of it, and whether there may be more."""
    group = ConsumerGroup(forward_group(broker), ())
    with database.tenant_transaction(tenant, write=True, active=True) as connection:
        checkpoint, messages = read_batch(connection, group, limit)
        done, leaving = Forwarded(tenant.slug, 0, checkpoint.offset), Leaving(connection, tenant)
        for start in range(0, len(messages or ()), _SLICE):
            if start and leaving.is_due():
                break
            done = _forward_slice(connection, broker, tenant, (messages or ())[start : start + _SLICE], done)
        if messages:
            move_checkpoint(connection, group, done.offset)
    return done, len(messages or ()) == limit


def _forward_slice(
    connection: Connection, broker: Broker, tenant: Tenant, messages: Sequence[Message], done: Forwarded
) -> Forwarded:
    own = [message for message in messages if FROM_BROKER not in message.metadata]
    _, refused = publish_past_refused(broker, tenant, own)
    _keep_letters(connection, forward_group(broker), own, refused)
    events, last = done.events + len(own) - len(refused), messages[-1].offset or 0
    return Forwarded(tenant.slug, events, last, done.refused + len(refused))


def publish_past_refused(
    broker: Broker, tenant: Tenant, messages: Sequence[Message], route: Route = LIVE
) -> tuple[set[UUID], list[RefusedError]]:
    """Publish in order, without those that the broker refuses for good; return the uuids that it had, and what it refused."""
    known: set[UUID] = set()
    refused: list[RefusedError] = []
    while messages:
        try:
            known |= broker.publish(tenant.slug, messages, route)
            break
        except RefusedError as error:
            refused.append(error)
            messages = messages[messages.index(error.message) + 1 :]
    return known, refused


def _keep_letters(
    connection: Connection, group: str, messages: Sequence[Message], refused: Sequence[RefusedError]
) -> None:
    """Dead-letter what was refused, and resolve the letters of what was taken now."""
    for error in refused:
        one = error.message
        connection.execute(_LETTER, [group, one.uuid, one.offset, one.topic, f"{type(error).__name__}: {error}"])
    letters = {error.message.uuid for error in refused}
    connection.execute(_RESOLVE, [group, [message.uuid for message in messages if message.uuid not in letters]])


def prepare(
    database: Database, tenants: Sequence[Tenant], groups: Sequence[ConsumerGroup], broker: Broker, errors: Errors
) -> list[Forwarded]:
    """Make on the broker what these groups need; return what a broker without the mark has lost, noted with each of all `tenants`.

    Those that are not active are among them, as the mark is there when they are active again. A tenant that cannot be noted is named
    in `errors`, with the reason; the mark is then left by a later call, once all are noted.
    """
    broker.declare(groups)
    if broker.has_mark():
        return []
    lost: list[Forwarded] = []
    failed: dict[str, str] = {}
    for tenant in tenants:
        with note_failure(tenant, failed), name_log_behind(tenant):
            if offset := note_wiped(database, tenant, broker):
                lost.append(Forwarded(tenant.slug, 0, offset, lost=True))
    errors.update(failed)
    if not failed:
        broker.leave_mark()
    return lost


def note_wiped(database: Database, tenant: Tenant, broker: Broker) -> int:
    """Note as a dead letter of the forwarder that the broker has lost what was forwarded; return up to which offset.

    For a broker without the forwarder's mark: it was wiped, purged or replaced by another of the same name. 0 is returned where
    nothing was forwarded, and where this was noted before, as the mark is missing until it is noted with each tenant.
    """
    group = forward_group(broker)
    with _writing(database, tenant) as connection:
        row = connection.execute(
            'SELECT "offset" FROM erpkit_checkpoints WHERE consumer_group = %s AND "offset" > 0', [group]
        ).fetchone()
        if row:
            lost = f"{_WIPED} {broker.name} has lost what was forwarded up to offset {row[0]}: it was wiped, purged or replaced"
            values = [group, wiped_uuid(group), row[0], "*", lost]
            is_new = connection.execute(_LETTER.encode() + _UNLESS_NOTED, values).rowcount
    return int(row[0]) if row and is_new else 0


@contextmanager
def _writing(database: Database, tenant: Tenant) -> Iterator[Connection]:
    """Write to a tenant's log; to that of an archived one with the rights of the login, as its role may only read."""
    if tenant.status != "archived":
        with database.tenant_transaction(tenant, write=True) as connection:
            yield connection
        return
    with database.transaction() as connection:
        connection.execute("SELECT set_config('search_path', quote_ident(%s), true)", [tenant.schema])
        yield connection


def wiped_uuid(group: str) -> UUID:
    """Return the uuid of the dead letter that stands for all that a broker has lost."""
    return uuid5(NAMESPACE_OID, f"erpkit {group} wiped")


_OPEN = """
SELECT {slug}, error, min("offset"), count(*) FROM {schema}.erpkit_dead_letters
 WHERE status = 'open' AND handler = {group} GROUP BY error
"""


def read_forward_findings(
    connection: Connection, tenants: Sequence[Tenant], scheme: str, errors: Errors | None = None
) -> list[Finding]:
    """Return what such a broker has lost or refused, by its open dead letters; `errors` is as in `read_tenants`."""
    group = group_name(scheme)
    found = read_tables(connection, tenants, "erpkit_dead_letters", _OPEN, errors, group=group)
    return [_finding(group, *row) for row in sorted(found)]


def _finding(group: str, slug: str, error: str, offset: int, letters: int) -> Finding:
    kind, _, problem = error.partition(": ")
    if error.startswith(_WIPED):
        remedy = f"erpkit events forward --tenant {slug} --from beginning"
        return Finding("wiped broker", slug, problem, "error", remedy)
    remedy = f"erpkit events forward --tenant {slug} --from {offset}"
    return Finding(
        "refused event", slug, f"{group}: {problem}", "warning", remedy, (f"{count_of(letters, 'letter')}, {kind}",)
    )


def read_forward_lag(
    connection: Connection, tenants: Sequence[Tenant], scheme: str, errors: Errors | None = None
) -> list[GroupLag]:
    """Return how far the forwarder to such a broker is behind the log of each tenant; `errors` is as in `read_tenants`."""
    named = {"group": group_name(scheme), "from_broker": FROM_BROKER}
    rows = read_tables(connection, tenants, "erpkit_events", _LAG, errors, **named)
    return sorted((GroupLag(*row) for row in rows), key=lambda one: one.tenant)
