"""The story of one correlation id: the command, the events that it caused, their effects and dead letters, with times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID, uuid5

from psycopg import sql

from erpkit.database import Connection, Errors, Tenant, read_tables, read_tenants
from erpkit.errors import UsageError
from erpkit.events.consumer import consumer_groups
from erpkit.events.log import COLUMNS, to_message
from erpkit.events.message import Message, fields_of
from erpkit.finding import Finding, not_read
from erpkit.modules import Registry
from erpkit.plural import count_of
from erpkit.result import Result, Summary
from erpkit.table import Column, Table, Tone

Kind = Literal["command", "event", "effect", "dead letter", "parked", "waits"]

_MOST_PUBLISHED = 100  # events of one handler and message whose publisher is recognized

_EVENTS = (
    "SELECT {slug}, e.* FROM (SELECT {columns} FROM {schema}.erpkit_events WHERE metadata->>'correlation_id' = {wanted}"
    " UNION SELECT {columns} FROM {schema}.erpkit_events WHERE uuid = {uuid}) e"
)
# The inbox is read along its key, which begins with the handler.
_OUTCOMES = sql.SQL(
    "SELECT {slug}, 'effect', handler, uuid, handled_at, NULL, NULL::timestamptz FROM {inbox}"
    " WHERE handler = ANY({handlers} || ARRAY(SELECT consumer_group FROM {checkpoints})) AND uuid = ANY({uuids})"
    " UNION ALL SELECT {slug}, 'dead letter', handler, uuid, failed_at, status || ': ' || error, resolved_at FROM {letters}"
    " WHERE uuid = ANY({uuids})"
    " UNION ALL SELECT {slug}, 'parked', handler, uuid, parked_at, aggregate, NULL FROM {parked} WHERE uuid = ANY({uuids})"
    " UNION ALL SELECT {slug}, 'checkpoint', consumer_group, NULL, updated_at, \"offset\"::text, NULL FROM {checkpoints}"
)


@dataclass(frozen=True)
class TraceEntry:
    """One thing that happened: `what` is a topic or a handler; `of` is the topic of the event that a handler got.

    `at` is None for what still waits. `by` is the command or handler that published an event, where that is known. A command is
    not kept: its time is that of its first event.
    """

    at: datetime | None
    tenant: str
    kind: Kind
    what: str
    of: str = ""
    offset: int | None = None
    uuid: UUID | None = None
    by: str = ""
    detail: str = ""
    payload: Mapping[str, Any] | None = field(default=None, repr=False)


def _tone(entry: TraceEntry) -> Tone:
    return "error" if _is_open(entry) else "warning" if entry.kind in ("parked", "waits") else ""


def _is_open(entry: TraceEntry) -> bool:
    return entry.kind == "dead letter" and entry.detail.startswith("open")


_COLUMNS = (
    Column[TraceEntry]("time", lambda one: f"{one.at:%Y-%m-%d %H:%M:%S.%f}"[:-3] if one.at else ""),
    Column[TraceEntry]("tenant", lambda one: one.tenant),
    Column[TraceEntry]("kind", lambda one: one.kind, tone=_tone),
    Column[TraceEntry]("what", lambda one: one.what),
    Column[TraceEntry]("of", lambda one: one.of),
    Column[TraceEntry]("offset", lambda one: "" if one.offset is None else one.offset, right=True),
    Column[TraceEntry]("published by", lambda one: one.by),
    Column[TraceEntry]("detail", lambda one: one.detail),
)
_PAYLOAD = Column[TraceEntry]("payload", lambda one: "" if one.payload is None else fields_of(one.payload))


@dataclass(frozen=True)
class Trace(Result):
    """All that one command, or one event that nothing caused, led to, in the order of time; what still waits comes last.

    `errors` maps the tenants that could not be read to the reason: the story may go on there.
    """

    correlation_id: str
    entries: Sequence[TraceEntry]
    errors: Mapping[str, str] = field(default_factory=dict)
    target: str = ""

    @property
    def findings(self) -> list[Finding]:
        """Open dead letters, parked events, and the tenants that could not be read."""
        letters = [
            Finding(
                "dead letters", one.tenant, f"{one.what} failed on offset {one.offset}", "warning",
                f"erpkit events dead-letters show {one.tenant} {one.offset} --handler {one.what}",
            )
            for one in self.entries
            if _is_open(one)
        ]  # fmt: skip
        parked = [
            Finding("parked", one.tenant, f"offset {one.offset} is parked for {one.what}, behind a dead letter")
            for one in self.entries
            if one.kind == "parked"
        ]
        return [*letters, *parked, *not_read(self.errors)]

    @property
    def facts(self) -> dict[str, object]:
        """How many events, effects and dead letters there are, and in how many tenants."""
        kinds = [one.kind for one in self.entries]
        return {
            "events": kinds.count("event"),
            "effects": kinds.count("effect"),
            "dead letters": kinds.count("dead letter"),
            "waiting": kinds.count("waits"),
            "tenants": len({one.tenant for one in self.entries}),
        }

    @property
    def table(self) -> Table[TraceEntry]:
        """One row per thing that happened; payloads where they were read."""
        columns = (*_COLUMNS, _PAYLOAD) if any(one.payload is not None for one in self.entries) else _COLUMNS
        return Table(columns, self.entries, "nothing is known of it", in_order=True)

    @property
    def summary(self) -> Summary:
        """Its figures."""
        return Summary(f"Trace of {self.correlation_id} on {self.target}", self.facts, self.findings)

    def __repr__(self) -> str:
        return repr(self.table)

    def _repr_html_(self) -> str:
        return self.summary.html() + self.table._repr_html_()


def trace(
    connection: Connection, tenants: Sequence[Tenant], registry: Registry, wanted: str, *, payload: bool = False
) -> Trace:
    """Tell the story of a correlation id, or of that of an event, over the logs of `tenants`.

    `wanted` is the uuid of a command, or of any event that goes back to it. Payloads are business data: ask for them only where
    you may see them. Raises UsageError where no tenant that could be read knows the id.
    """
    if not wanted.strip():
        raise UsageError(
            "the id is empty: give a correlation id, or the uuid of an event; erpkit events list TENANT shows them"
        )
    errors: dict[str, str] = {}
    found = _read_events(connection, tenants, wanted, errors)
    if found and wanted not in (ids := {event.correlation_id for _, event in found}):
        wanted = ids.pop()  # it was the uuid of an event in the middle of the story
        found = _read_events(connection, tenants, wanted, errors)
    if not found and not errors:
        raise UsageError(
            f"no event of {count_of(len(tenants), 'tenant')} has the correlation id or uuid {wanted}: a command that published nothing "
            "leaves no trace"
        )
    outcomes = _read_outcomes(connection, tenants, registry, found, errors)
    return Trace(wanted, tell(registry, found, outcomes, payload=payload), errors)


Found = Sequence[tuple[str, Message]]  # tenant, event
Outcomes = Iterable[tuple[Any, ...]]  # tenant, kind, handler, uuid, time, detail, time of closing


def tell(registry: Registry, found: Found, outcomes: Outcomes, *, payload: bool = False) -> list[TraceEntry]:
    """Put events and what became of them into one order. Pure."""
    events = {(slug, event.uuid): event for slug, event in found}
    entries = [*_commands(registry, found), *(_event_entry(registry, slug, event, payload) for slug, event in found)]
    done, checkpoints = set[tuple[str, str, UUID]](), dict[tuple[str, str], int]()
    for slug, kind, handler, uuid, at, detail, closed in outcomes:
        if kind == "checkpoint":
            checkpoints[slug, handler] = int(detail)
            continue
        event = events[slug, uuid]
        done.add((slug, handler, uuid))
        note = f"{detail or ''}{f' (closed {closed:%Y-%m-%d %H:%M:%S})' if closed else ''}"
        entries.append(TraceEntry(at, slug, kind, handler, event.topic, event.offset, uuid, "", note))
    waiting = [
        TraceEntry(None, slug, "waits", group.name, event.topic, event.offset, event.uuid)
        for (slug, _), event in events.items()
        for group in consumer_groups(registry)
        if event.topic in group.topics and (slug, group.name, event.uuid) not in done
        and (event.offset or 0) > checkpoints.get((slug, group.name), 0)
    ]  # fmt: skip
    told = [(one.at.timestamp(), number, one) for number, one in enumerate(entries) if one.at]
    return [*(one for *_, one in sorted(told, key=lambda row: row[:2])), *waiting]


def find_publisher(event: Message, names: Iterable[str]) -> str:
    """Return which of `names`, topics of commands and handlers, published an event: its uuid is derived from that. Pure."""
    try:
        cause = UUID(event.metadata.get("causation_id", ""))
    except ValueError:
        return ""
    keys = ((name, number) for name in names for number in range(_MOST_PUBLISHED))
    return next((name for name, number in keys if uuid5(cause, f"{name}/{number}") == event.uuid), "")


def _event_entry(registry: Registry, slug: str, event: Message, payload: bool) -> TraceEntry:
    by = find_publisher(event, [*_command_topics(registry), *registry.event_handlers])
    shown = event.payload if payload else None
    return TraceEntry(event.recorded_at, slug, "event", event.topic, "", event.offset, event.uuid, by, "", shown)


def _commands(registry: Registry, found: Found) -> list[TraceEntry]:
    """Return the commands that first events were published by, once a tenant and command."""
    uuids = {event.uuid for _, event in found}
    commands: dict[tuple[str, UUID], TraceEntry] = {}
    for slug, event in found:
        cause = event.metadata.get("causation_id", "")
        if name := find_publisher(event, _command_topics(registry)):
            uuid = UUID(cause)
            if uuid not in uuids:
                commands.setdefault((slug, uuid), TraceEntry(event.recorded_at, slug, "command", name, uuid=uuid))
    return list(commands.values())


def _command_topics(registry: Registry) -> list[str]:
    return [registry.topic(handler.command) for module in registry.modules for handler in module.commands]


def _read_events(
    connection: Connection, tenants: Sequence[Tenant], wanted: str, errors: Errors
) -> list[tuple[str, Message]]:
    try:
        uuid: UUID | None = UUID(wanted)
    except ValueError:
        uuid = None
    rows = read_tables(
        connection, tenants, "erpkit_events", _EVENTS, errors, columns=sql.SQL(COLUMNS), wanted=wanted, uuid=uuid
    )
    found = [(slug, to_message(tuple(row))) for slug, *row in rows]
    return sorted(found, key=lambda one: (one[0], one[1].offset or 0))


def _read_outcomes(
    connection: Connection, tenants: Sequence[Tenant], registry: Registry, found: Found, errors: Errors
) -> list[tuple[Any, ...]]:
    by_tenant: dict[str, list[UUID]] = {}
    for slug, event in found:
        by_tenant.setdefault(slug, []).append(event.uuid)
    tables = {"inbox": "inbox", "letters": "dead_letters", "parked": "parked", "checkpoints": "checkpoints"}
    queries = [
        (
            tenant,
            _OUTCOMES.format(
                slug=sql.Literal(tenant.slug), handlers=sql.Literal(list(registry.event_handlers)),
                uuids=sql.Literal(by_tenant[tenant.slug]),
                **{name: sql.Identifier(tenant.schema, f"erpkit_{table}") for name, table in tables.items()},
            ),
        )
        for tenant in tenants
        if tenant.slug in by_tenant
    ]  # fmt: skip
    return read_tenants(connection, queries, errors)
