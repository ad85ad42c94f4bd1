"""The audit of replays: who asked for one, how far it came, and the result of each event."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from psycopg import sql
from psycopg.types.json import Jsonb

from erpkit.config import acting_user
from erpkit.database import (
    Connection,
    Database,
    Errors,
    Tenant,
    note_errors,
    read_tables,
    read_tenants,
)
from erpkit.errors import ErpkitError, UsageError
from erpkit.events.log import announce
from erpkit.events.message import Message
from erpkit.events.replay.plan import (
    HandlerChoice,
    ReplayPlan,
    SendTarget,
    choose_handlers,
    count_query,
    send_steps,
    steps_of,
)
from erpkit.events.replay.selection import Selection
from erpkit.finding import Finding, not_read
from erpkit.modules import Registry
from erpkit.result import Summary, TableResult
from erpkit.table import Column, Table, Tone


class Outcome(NamedTuple):
    """What became of one event: `handled` or `failed` by a handler, or `sent` to a broker or `known` to it and dropped."""

    handler: str
    message: Message
    state: str
    error: str | None = None


@dataclass(frozen=True)
class ReplayRecord:
    """The audit of one replay in one tenant; `state` is running, cancelled, done or failed.

    One that was killed stays `running`: it can be resumed as the others can. `handled` counts those that were sent, where the
    events went to the `target`.
    """

    tenant: str
    replay_id: UUID
    plan_id: str
    state: str
    handlers: list[str]
    requested_by: str
    started_at: datetime
    finished_at: datetime | None
    planned: int
    handled: int
    failed: int
    resolved: int
    error: str | None
    target: SendTarget | None = None


@dataclass(frozen=True)
class ReplayResult:
    """What became of one event at one handler, or on its way to a broker, in a replay: see `Outcome`."""

    handler: str
    offset: int
    uuid: UUID
    state: str
    error: str | None


_Result = tuple[str, ReplayResult]  # tenant


@dataclass(frozen=True, repr=False)
class ReplayHistory(TableResult):
    """Earlier replays of some tenants, the newest first, and the tenants that could not be read with the reason.

    `results` are what became of each event, where that was asked for: by tenant, failures first.
    """

    records: Sequence[ReplayRecord]
    errors: Mapping[str, str]
    results: Mapping[str, Sequence[ReplayResult]] = field(default_factory=dict)

    @property
    def findings(self) -> list[Finding]:
        """The tenants that could not be read."""
        return not_read(self.errors)

    @property
    def table(self) -> Table[ReplayRecord]:
        """One row per replay and tenant: who asked for it, and how it ended."""
        return Table(_RECORDS, self.records, "Nothing was ever replayed here.", in_order=True)

    @property
    def result_table(self) -> Table[_Result]:
        """One row per event: what became of it."""
        rows = [(slug, one) for slug, results in self.results.items() for one in results]
        return Table(_RESULTS, rows, "No result per event was kept.")

    @property
    def summary(self) -> Summary:
        """How many there are, and which tenants could not be read."""
        return Summary("Earlier replays", {"replays": len(self.records)}, self.findings)


def _state_tone(state: str) -> Tone:
    return "error" if state == "failed" else "warning" if state in ("cancelled", "running", "known") else ""


_RECORDS = (
    Column[ReplayRecord]("tenant", lambda r: r.tenant),
    Column[ReplayRecord]("replay", lambda r: r.replay_id),
    Column[ReplayRecord]("to", lambda r: r.target or "handlers"),
    Column[ReplayRecord]("state", lambda r: r.state, tone=lambda r: _state_tone(r.state)),
    Column[ReplayRecord]("done", lambda r: r.handled),
    Column[ReplayRecord]("failed", lambda r: r.failed, tone=lambda r: "error" if r.failed else ""),
    Column[ReplayRecord]("planned", lambda r: r.planned),
    Column[ReplayRecord]("by", lambda r: r.requested_by),
    Column[ReplayRecord]("started", lambda r: r.started_at),
    Column[ReplayRecord]("error", lambda r: r.error or ""),
)
_RESULTS = (
    Column[_Result]("tenant", lambda row: row[0]),
    Column[_Result]("offset", lambda row: row[1].offset),
    Column[_Result]("uuid", lambda row: row[1].uuid, minor=True),
    Column[_Result]("to", lambda row: row[1].handler),
    Column[_Result]("state", lambda row: row[1].state, tone=lambda row: _state_tone(row[1].state)),
    Column[_Result]("error", lambda row: row[1].error or ""),
)


def read_replays(
    database: Database, tenants: Sequence[Tenant], replay_id: UUID | None = None, limit: int = 50
) -> ReplayHistory:
    """Read the audit of all replays of `tenants`; for one replay also the results of up to `limit` events per tenant.

    Raises UsageError where no tenant knows the one that was asked for.
    """
    errors: dict[str, str] = {}
    with database.connection() as connection:
        records = list_replays(connection, tenants, replay_id, errors)
    if replay_id is None:
        return ReplayHistory(records, errors)
    if not records and not errors:
        raise UsageError(f"no tenant has a replay {replay_id}: see `erpkit events replays`")
    results: dict[str, Sequence[ReplayResult]] = {}
    known = {record.tenant for record in records}
    for tenant in (tenant for tenant in tenants if tenant.slug in known):
        with database.tenant_transaction(tenant) as connection:
            results[tenant.slug] = list_replay_results(connection, replay_id, limit)
    return ReplayHistory(records, errors, results)


def list_replays(
    connection: Connection, tenants: Sequence[Tenant], replay_id: UUID | None = None, errors: Errors | None = None
) -> list[ReplayRecord]:
    """Return the audit of all replays of `tenants`, or of one of them, newest first; `errors` is as in `read_tenants`.

    The rows are kept until somebody deletes them from erpkit_replays; the results of their events go with them.
    """
    rows = _read(connection, tenants, _RECORD, replay_id, errors)
    records = [ReplayRecord(*(*row[:-1], _target(row[-1]))) for row in rows]
    return sorted(records, key=lambda record: (-record.started_at.timestamp(), record.tenant))


def list_replay_results(connection: Connection, replay_id: UUID, limit: int = 1000) -> list[ReplayResult]:
    """Return what became of each event in the present tenant: failures first, then by offset."""
    rows = connection.execute(
        'SELECT handler, "offset", uuid, state, error FROM erpkit_replay_results WHERE replay_id = %s '
        'ORDER BY state, "offset", handler LIMIT %s',  # 'failed' comes before 'handled'
        [replay_id, limit],
    )
    return [ReplayResult(*row) for row in rows]


def count_replay_results(
    connection: Connection, tenants: Sequence[Tenant], replay_id: UUID, errors: Errors | None = None
) -> dict[tuple[str, str], dict[str, int]]:
    """Return how many events are in which state, by tenant and handler (or target); `errors` is as in `read_tenants`."""
    query = (
        "SELECT {slug}, handler, state, count(*) FROM {schema}.erpkit_replay_results "
        "WHERE replay_id = {replay_id} GROUP BY 2, 3"
    )
    rows = read_tables(connection, tenants, "erpkit_replay_results", query, errors, replay_id=replay_id)
    counts: dict[tuple[str, str], dict[str, int]] = {}
    for slug, handler, state, count in sorted(rows):
        counts.setdefault((slug, handler), {})[state] = count
    return counts


def plan_resume(
    connection: Connection, tenants: Sequence[Tenant], registry: Registry, replay_id: UUID | str
) -> ReplayPlan:
    """Plan the rest of a replay that was cancelled, killed or failed; the plan keeps its id.

    Raises UsageError when none of `tenants` knows that replay, or nothing is left of it.
    """
    try:
        replay_id = UUID(str(replay_id))
    except ValueError:
        raise UsageError(f"{replay_id!r} is not the id of a replay: see `erpkit events replays`") from None
    errors: dict[str, str] = {}
    rows = {row[0]: row[1:] for row in _read(connection, tenants, _RESUME, replay_id, errors)}
    if not rows and errors:
        note_errors(errors, None)
    if not rows:
        raise UsageError(f"no tenant has a replay {replay_id}: see `erpkit events replays`")
    left = {slug: row for slug, row in rows.items() if row[3] != "done"}
    if not left:
        raise UsageError(f"replay {replay_id} is done: there is nothing to resume")
    plan_id, stored, names, _, _, _, to, _ = next(iter(left.values()))
    selection, target = _selection(stored), _target(to)
    unfinished = tuple(tenant for tenant in tenants if tenant.slug in left)
    queries = [(tenant, _count_left(tenant, selection, *left[tenant.slug][4:6])) for tenant in unfinished]
    counts = sorted(read_tenants(connection, queries, errors))
    unfinished = tuple(tenant for tenant in unfinished if tenant.slug not in errors)
    if target is None:
        steps = steps_of(registry, choose_handlers(registry, HandlerChoice(names, names))[0], selection, counts)
    else:
        steps = send_steps(target, selection, counts)
    positions = {slug: row[4] for slug, row in left.items()}
    plan = ReplayPlan(selection, unfinished, steps, {}, replay_id, plan_id, positions, target, errors)
    planned = sum(row[-1] for slug, row in rows.items() if slug not in errors)
    return replace(plan, done_before=max(0, planned - plan.event_count))


_TARGET = "to_jsonb(r)->'target'"  # null where a tenant is in want of the migration
_RECORD = (
    "replay_id, plan_id, state, handlers, requested_by, started_at, finished_at, planned, handled, failed, resolved, error, "
    + _TARGET
)
_RESUME = f"plan_id, selection, handlers, state, last_offset, until, {_TARGET}, planned"


def open_replay(database: Database, plan: ReplayPlan, replay_id: UUID) -> None:
    """Record in every tenant of the plan, in one transaction, that the replay runs."""
    selection = Jsonb(json.loads(json.dumps(asdict(plan.selection), default=str)))
    with database.transaction() as connection, connection.pipeline():
        for tenant in plan.tenants:
            table = sql.Identifier(tenant.schema, "erpkit_replays")
            if plan.resumes is not None:
                again = "UPDATE {} SET state = 'running', finished_at = NULL, error = NULL WHERE replay_id = %s"
                connection.execute(sql.SQL(again).format(table), [replay_id])
                continue
            steps = plan.steps_by_tenant[tenant.slug]
            connection.execute(
                sql.SQL(
                    "INSERT INTO {} (replay_id, plan_id, selection, handlers, requested_by, state, last_offset, until, planned, "
                    "target) VALUES (%s, %s, %s, %s, %s, 'running', %s, %s, %s, %s)"
                ).format(table),
                [
                    replay_id, plan.id, selection, sorted({step.handler for step in steps}), acting_user(),
                    min(step.first_offset for step in steps) - 1, max(step.last_offset for step in steps),
                    sum(step.events for step in steps), Jsonb(asdict(plan.target)) if plan.target else None,
                ],
            )  # fmt: skip


def claim(connection: Connection, replay_id: UUID, after: int) -> None:
    """Lock the audit row until the batch commits; raise ErpkitError when another process has resumed the replay."""
    row = connection.execute(
        "SELECT last_offset FROM erpkit_replays WHERE replay_id = %s FOR UPDATE", [replay_id]
    ).fetchone()
    if row != (after,):
        raise ErpkitError(f"replay {replay_id}: another process has resumed it")


def record(connection: Connection, replay_id: UUID, outcomes: Sequence[Outcome], last_offset: int) -> int:
    """Write a batch's results in the transaction that has its effects; return how many dead letters it resolved."""
    handled = [outcome for outcome in outcomes if outcome.state == "handled"]
    keys = [[outcome.handler for outcome in handled], [outcome.message.uuid for outcome in handled]]
    with connection.pipeline():
        connection.execute(
            "INSERT INTO erpkit_replay_results SELECT %s, r.* FROM "
            "unnest(%s::text[], %s::bigint[], %s::uuid[], %s::text[], %s::text[]) r",
            [
                replay_id,
                [outcome.handler for outcome in outcomes],
                [outcome.message.offset for outcome in outcomes],
                [outcome.message.uuid for outcome in outcomes],
                [outcome.state for outcome in outcomes],
                [outcome.error for outcome in outcomes],
            ],
        )
        connection.execute(
            "INSERT INTO erpkit_inbox (handler, uuid) SELECT * FROM unnest(%s::text[], %s::uuid[]) ON CONFLICT DO NOTHING",
            keys,
        )
        closed = connection.execute(
            "UPDATE erpkit_dead_letters d SET status = 'resolved', resolved_at = now(), resolved_by = %s, reason = %s "
            "FROM unnest(%s::text[], %s::uuid[]) r (handler, uuid) "
            "WHERE d.handler = r.handler AND d.uuid = r.uuid AND d.status = 'open'",
            [acting_user(), f"replay {replay_id}", *keys],
        )
    states = Counter(outcome.state for outcome in outcomes)
    connection.execute(
        "UPDATE erpkit_replays SET last_offset = %s, handled = handled + %s, failed = failed + %s, resolved = resolved + %s "
        "WHERE replay_id = %s",
        [last_offset, states["handled"] + states["sent"], states["failed"], closed.rowcount, replay_id],
    )
    if closed.rowcount:
        announce(connection)  # a worker looks for what was parked behind them
    return closed.rowcount


def close_replay(
    database: Database, tenants: Sequence[Tenant], replay_id: UUID, state: str, error: str | None = None
) -> None:
    """Record how the replay ended in those of `tenants` where it still runs."""
    query = "UPDATE {} SET state = %s, error = %s, finished_at = now() WHERE replay_id = %s AND state = 'running'"
    with database.transaction() as connection, connection.pipeline():
        for tenant in tenants:
            table = sql.Identifier(tenant.schema, "erpkit_replays")
            connection.execute(sql.SQL(query).format(table), [state, error, replay_id])


def _read(
    connection: Connection, tenants: Sequence[Tenant], columns: str, replay_id: UUID | None, errors: Errors | None
) -> list[tuple[Any, ...]]:
    wanted = sql.SQL("true") if replay_id is None else sql.SQL("replay_id = {}").format(sql.Literal(replay_id))
    query = "SELECT {slug}, {columns} FROM {schema}.erpkit_replays r WHERE {wanted}"
    values = {"columns": sql.SQL(columns), "wanted": wanted}
    return read_tables(connection, tenants, "erpkit_replay_results", query, errors, **values)


def _count_left(tenant: Tenant, selection: Selection, last_offset: int, until: int) -> sql.Composed:
    left = sql.SQL('{} AND "offset" > {} AND "offset" <= {}')
    return count_query(tenant, left.format(selection.condition(), sql.Literal(last_offset), sql.Literal(until)))


def _selection(stored: Mapping[str, Any]) -> Selection:
    moments = {name: datetime.fromisoformat(stored[name]) for name in ("since", "until") if stored.get(name)}
    uuids = tuple(UUID(text) for text in stored.get("uuids", ()))
    return Selection(**{**stored, **moments, "uuids": uuids})


def _target(stored: Mapping[str, Any] | None) -> SendTarget | None:
    return SendTarget(**stored) if stored else None
