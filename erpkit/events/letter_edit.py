"""Editing the payload with which a dead letter is retried; the event in the log stays as it is, and each edit is kept."""

from __future__ import annotations

import copy
import json
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from erpkit.config import acting_user
from erpkit.database import Connection, Database, Tenant
from erpkit.errors import PlanChangedError, UsageError
from erpkit.events.log import EVENT, name_log_behind, to_message
from erpkit.events.message import (
    Message,
    PayloadError,
    check_storable,
    decode_message,
    fields_of,
    list_unknown,
    upcast,
)
from erpkit.events.orphans import FORWARDERS
from erpkit.finding import Finding
from erpkit.modules import Registry
from erpkit.plan import plan_id
from erpkit.plural import count_of
from erpkit.result import Result
from erpkit.table import Column, Table

_OPEN = f"""
SELECT d.handler, d.status, d.payload, {EVENT}
  FROM erpkit_dead_letters d JOIN erpkit_events e ON e.uuid = d.uuid
 WHERE d."offset" = %(offset)s AND %(handler)s IN ('', d.handler) ORDER BY d.handler FOR UPDATE OF d
"""  # noqa: S608 - the columns are a constant

_Change = tuple[str, object, object]  # field, before, after
_FIELDS = (Column[_Change]("field", lambda row: row[0]),)
_VALUES = (
    *_FIELDS,
    Column[_Change]("before", lambda row: json.dumps(row[1], ensure_ascii=False)),
    Column[_Change]("after", lambda row: json.dumps(row[2], ensure_ascii=False)),
)


@dataclass(frozen=True)
class LetterEdit:
    """A plan to retry a dead letter with another payload. `shows_values` lets it show the business data that change."""

    tenant: Tenant
    handler: str
    offset: int
    uuid: UUID
    before: Mapping[str, Any] = field(repr=False)
    after: Mapping[str, Any] = field(repr=False)
    reason: str
    shows_values: bool = False

    @property
    def id(self) -> str:
        """`edit-` and ten hexadecimal digits that stand for this letter, both payloads and the reason."""
        return plan_id("edit", [self.tenant.slug, self.handler, self.uuid, self.before, self.after, self.reason])

    @property
    def changes(self) -> list[_Change]:
        """The fields that differ, with both values."""
        names = [*self.before, *(name for name in self.after if name not in self.before)]
        pairs = [(name, self.before.get(name), self.after.get(name)) for name in names]
        return [pair for pair in pairs if pair[1] != pair[2]]

    @property
    def size(self) -> int:
        """1, or 0 where the payload stays the same."""
        return 1 if self.changes else 0

    @property
    def facts(self) -> dict[str, object]:
        """How many fields differ, and that nothing was edited yet."""
        return {"fields": len(self.changes), "edited": 0}

    @property
    def findings(self) -> tuple[Finding, ...]:
        """None: planning refuses a payload that does not fit."""
        return ()

    @property
    def tables(self) -> tuple[Table[_Change], ...]:
        """One row per field that differs."""
        return (Table(_VALUES if self.shows_values else _FIELDS, self.changes, "The payload stays the same."),)

    def __str__(self) -> str:
        changed = count_of(len(self.changes), "field")
        return f"retry offset {self.offset} of {self.tenant.slug} for {self.handler} with {changed} changed"


@dataclass(frozen=True)
class Edited(Result):
    """The result: the letter is still open, and a retry hands over the new payload."""

    plan: LetterEdit

    @property
    def facts(self) -> dict[str, object]:
        """That one letter was edited."""
        return {"edited": 1}

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The command that retries it: advice."""
        plan = self.plan
        again = f"erpkit events dead-letters retry --tenant {shlex.quote(plan.tenant.slug)}"
        remedy = f"{again} --handler {shlex.quote(plan.handler)} --offset {plan.offset}"
        return (Finding("edited", plan.tenant.slug, f"offset {plan.offset} waits for its retry", "info", remedy),)

    @property
    def tables(self) -> tuple[Table[_Change], ...]:
        """The fields that differ."""
        return self.plan.tables

    def __str__(self) -> str:
        plan = self.plan
        return f"offset {plan.offset} of {plan.tenant.slug} was edited for {plan.handler}"


def plan_edit(
    database: Database,
    registry: Registry,
    tenant: Tenant,
    letter: tuple[int, str],
    edit: tuple[Mapping[str, Any], str],
) -> LetterEdit:
    """Plan to retry a `letter` (offset and handler, "" if only one failed) with an `edit`: new values by field, and the reason.

    A field is a name, or a path such as `lines.0.amount`. Raises UsageError without a reason or an open letter, and for a field
    that is not there; PayloadError, naming the field, for a payload that the handler's event type does not take.
    """
    values, reason = edit
    if not reason.strip():
        raise UsageError("editing a dead letter needs a reason: it is kept with the edit")
    with name_log_behind(tenant), database.tenant_transaction(tenant, write=True) as connection:
        handler, before, message = _find(connection, tenant, *letter)
    if handler.startswith(FORWARDERS):
        raise UsageError(
            f"{handler} forwards an event as the log has it, and takes no other payload: once the broker takes it, send it by "
            f"`erpkit events forward --tenant {tenant.slug} --from {letter[0]}`, or discard its dead letter"
        )
    if handler not in registry.event_handlers:
        raise UsageError(f"no module has the handler {handler} any more, so the payload would not be used")
    after = change(before, values)
    event = next(kind for kind in _kinds(registry, handler) if registry.topic(kind) == message.topic)
    try:
        _check_known(registry, event, replace(message, payload=before), after)
        decode_message(registry, event, replace(message, payload=after))
        check_storable(event.__name__, after)
    except PayloadError as error:
        raise PayloadError(f"{error}; nothing was edited") from None
    return LetterEdit(tenant, handler, message.offset or 0, message.uuid, before, after, reason.strip())


def edit_letter(database: Database, plan: LetterEdit, confirm: str) -> Edited:
    """Carry out `plan` if `confirm` is its id: keep the new payload with the letter, and the edit with who, when and why.

    Raises PlanChangedError where the letter was edited or closed since.
    """
    PlanChangedError.check(confirm, plan.id, "edited")
    with database.tenant_transaction(plan.tenant, write=True) as connection:
        _, before, _ = _find(connection, plan.tenant, plan.offset, plan.handler)
        PlanChangedError.check(confirm, replace(plan, before=before).id, "edited")
        connection.execute(
            "UPDATE erpkit_dead_letters SET payload = %s WHERE handler = %s AND uuid = %s",
            [Jsonb(dict(plan.after)), plan.handler, plan.uuid],
        )
        connection.execute(
            "INSERT INTO erpkit_letter_edits (handler, uuid, before, after, plan_id, edited_by, reason) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s)",
            [
                plan.handler, plan.uuid, Jsonb(dict(plan.before)), Jsonb(dict(plan.after)), plan.id, acting_user(), plan.reason,
            ],
        )  # fmt: skip
    return Edited(plan)


def change(payload: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a payload with other `values` by field or path. Pure; raises UsageError for a path that leads nowhere."""
    if not isinstance(payload, Mapping):  # another program wrote it
        raise UsageError(
            f"the payload is {json.dumps(payload)[:60]} and has no fields to edit: discard the dead letter"
        )
    changed: dict[str, Any] = copy.deepcopy(dict(payload))
    for path, value in values.items():
        *way, last = path.split(".")
        try:
            place: Any = changed
            for step in way:
                place = place[int(step)] if isinstance(place, list) else place[step]
            if isinstance(place, list):
                place[int(last)] = value
            else:
                place[last] = value
        except (KeyError, IndexError, ValueError, TypeError):
            raise UsageError(f"the payload has no {path}; its fields are {', '.join(payload)}") from None
    return changed


def _check_known(registry: Registry, event: type, before: Message, after: Mapping[str, Any]) -> None:
    """Raise UsageError where an edit adds a field that the type does not have: a handler would never see its value."""
    known: list[str] = []
    with suppress(PayloadError):  # of another program, or too old
        known = list_unknown(event, upcast(registry, event, before))
    for name in list_unknown(event, upcast(registry, event, replace(before, payload=after))):
        if name not in known:
            fields = ", ".join(fields_of(before.payload))
            raise UsageError(f"{event.__name__} has no field {name}; the payload has {fields}: nothing was edited")


def _kinds(registry: Registry, handler: str) -> Sequence[type]:
    """Return the types of event that a handler takes."""
    event: Any = registry.event_handlers[handler].event
    return event if isinstance(event, tuple) else (event,)


def _find(connection: Connection, tenant: Tenant, offset: int, handler: str) -> tuple[str, Mapping[str, Any], Message]:
    """Lock an open letter; return its handler, its payload as it would be retried now, and its event."""
    rows = connection.execute(_OPEN.encode(), {"offset": offset, "handler": handler}).fetchall()
    found = [row for row in rows if row[1] == "open"]
    if not found:
        state = f"its dead letter is {rows[0][1]}" if rows else "there is no dead letter with an event in the log"
        raise UsageError(f"tenant {tenant.slug}, offset {offset}: {state}: nothing was edited")
    if len(found) > 1:
        names = ", ".join(row[0] for row in found)
        raise UsageError(f"tenant {tenant.slug}: offset {offset} is a dead letter of {names}: name the handler")
    name, _, payload, *event = found[0]
    message = to_message(tuple(event))
    return name, message.payload if payload is None else payload, message
