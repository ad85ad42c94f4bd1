"""Events of the past, published on a broker's subject once more: for a consumer that missed them, or is new."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import sql

from erpkit.database import Connection, Database, Errors, Tenant, read_tenants, tenants_with_table
from erpkit.errors import UsageError
from erpkit.events.brokers.broker import LIVE, Broker, Route
from erpkit.events.brokers.forward import forward_group
from erpkit.events.message import Message
from erpkit.events.replay.audit import Outcome
from erpkit.events.replay.plan import ReplayPlan, SendTarget, count_events, count_query, send_steps
from erpkit.events.replay.run import ReplayRun, RunOptions, carry_out
from erpkit.events.replay.selection import Selection


def plan_send(
    connection: Connection, tenants: Sequence[Tenant], selection: Selection, broker: Broker, route: Route = LIVE
) -> ReplayPlan:
    """Plan to publish what `selection` holds in the logs of `tenants`; nothing is asked of the broker yet.

    On the live route what the forwarder has not come to is left to it: sent now, it would be out of order.
    """
    target = SendTarget(broker.name, route.subject, route.again)
    errors: dict[str, str] = {}
    forwarded, rest = _count(connection, tenants, selection, forward_group(broker) if route.is_live else None, errors)
    steps = send_steps(target, selection, forwarded)
    waiting = sum(row[2] for row in rest if selection.has_topic(row[1]))
    left_out = {f"{waiting} event(s)": "not forwarded yet: `erpkit events forward` sends them"} if waiting else {}
    with_steps = {step.tenant for step in steps}
    return ReplayPlan(
        selection, tuple(t for t in tenants if t.slug in with_steps), steps, left_out, target=target, errors=errors
    )


def send_replay(
    database: Database,
    broker: Broker,
    plan: ReplayPlan,
    confirm: str,
    options: RunOptions | None = None,
) -> ReplayRun:
    """Carry out `plan` if `confirm` is its id: publish each tenant's events in the order of its log.

    They keep their uuid, and say that they are replayed: headers `is_replay` and `replay_id`. The message id is the uuid too, so
    that JetStream drops those that came in its duplicate window (an hour); they are counted as `known`. A route with `again`
    has ids of its own. What a batch's end, a crash or a fault of the broker leaves is done by `plan_resume`, under the same
    ids. erpkit's own handlers know the uuids, and handle nothing twice. Raises BrokerError, and PlanChangedError.
    """
    target = plan.target
    if target is None or target.broker != broker.name:
        raise UsageError(
            f"plan {plan.id} goes to {target.broker if target else 'handlers'}, ERPKIT_BROKER is {broker.name}"
        )
    name, route = str(target), target.route

    def deliver(_: Connection, tenant: Tenant, messages: Sequence[Message]) -> tuple[list[Outcome], list[Message]]:
        known = broker.publish(tenant.slug, messages, route)
        return [Outcome(name, message, "known" if message.uuid in known else "sent") for message in messages], []

    if confirm == plan.id:
        broker.declare([], route)
    return carry_out(database, plan, confirm, deliver, options)


def _count(
    connection: Connection, tenants: Sequence[Tenant], selection: Selection, group: str | None, errors: Errors
) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Count what is up to the checkpoint of `group`, and what is past it; without a group all is on the first side."""
    if group is None:
        return count_events(connection, tenants, selection, errors), []
    logs = tenants_with_table(connection, "erpkit_events", tenants, errors)
    up_to, past = (
        sorted(
            read_tenants(connection, [(t, count_query(t, _side(t, selection, group, compare))) for t in logs], errors)
        )
        for compare in (sql.SQL("<="), sql.SQL(">"))
    )
    return up_to, past


def _side(tenant: Tenant, selection: Selection, group: str, compare: sql.SQL) -> sql.Composed:
    return sql.SQL('{} AND "offset" {} coalesce((SELECT "offset" FROM {} WHERE consumer_group = {}), 0)').format(
        selection.condition(), compare, sql.Identifier(tenant.schema, "erpkit_checkpoints"), sql.Literal(group)
    )
