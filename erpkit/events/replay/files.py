"""Exporting events to a file of JSON lines, and importing such a file into a log."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

from erpkit.database import Database, Tenant
from erpkit.errors import ErpkitError, PlanChangedError, UsageError
from erpkit.events.log import append
from erpkit.events.message import Message, PayloadError, decode
from erpkit.events.replay.selection import Selection, stream_selected
from erpkit.finding import Finding
from erpkit.modules import Registry
from erpkit.plan import plan_id
from erpkit.plural import count_of
from erpkit.result import Result
from erpkit.table import Column, Table

_BATCH = 1000


@dataclass(frozen=True)
class EventFile:
    """An exported file of JSON lines, and how many events of each tenant are in it."""

    path: Path
    events: dict[str, int]

    @property
    def event_count(self) -> int:
        """How many events are in the file."""
        return sum(self.events.values())

    def __str__(self) -> str:
        return f"{self.path}: {count_of(self.event_count, 'event')} of {count_of(len(self.events), 'tenant')}"

    __repr__ = __str__


@dataclass(frozen=True)
class ImportPlan:
    """What an import would do: how many events of each topic are new to the log, and how many it has already."""

    path: Path
    tenant: Tenant
    new: dict[str, int]
    known: int
    digest: str

    @property
    def id(self) -> str:
        """`import-` and ten hexadecimal digits that stand for this file, this tenant and what is new to it."""
        facts = [self.digest, self.tenant.slug, sorted(self.new.items()), self.known]
        return plan_id("import", facts)

    @property
    def event_count(self) -> int:
        """How many events would be appended."""
        return sum(self.new.values())

    @property
    def size(self) -> int:
        """How many events are in the file."""
        return self.event_count + self.known

    @property
    def facts(self) -> dict[str, object]:
        """How many events are new to the log, and how many it has."""
        return {"tenant": self.tenant.slug, "planned": self.event_count, "known": self.known}

    @property
    def findings(self) -> list[Finding]:
        """That all handlers are given what is appended."""
        given = f"the log of {self.tenant.slug} has {self.known:,} of them already; all handlers are given the new ones"
        return [Finding("import", "", given, "info")]

    @property
    def tables(self) -> tuple[Table[tuple[str, int]], ...]:
        """One row per topic: how many events are new to the log."""
        return (Table(_TOPICS, sorted(self.new.items()), "No event is new to the log."),)

    def __str__(self) -> str:
        return f"{count_of(self.event_count, 'event')} for the log of {self.tenant.slug}"


@dataclass(frozen=True)
class ImportResult(Result):
    """How many events of a file were appended to a tenant's log."""

    tenant: str
    appended: int

    @property
    def facts(self) -> dict[str, object]:
        """How many events were appended."""
        return {"appended": self.appended}

    @property
    def findings(self) -> tuple[Finding, ...]:
        """None: an import succeeds as a whole, or raises."""
        return ()

    @property
    def tables(self) -> tuple[Table[tuple[str, int]], ...]:
        """None: the log shows the events."""
        return ()

    def __str__(self) -> str:
        return f"{count_of(self.appended, 'event')} appended to the log of {self.tenant}"


_TOPICS = (
    Column[tuple[str, int]]("topic", lambda row: row[0]),
    Column[tuple[str, int]]("new events", lambda row: row[1], bar=True),
)


def export_events(
    database: Database,
    tenants: Sequence[Tenant],
    selection: Selection,
    path: Path,
    progress: Callable[[int], object] | None = None,
) -> EventFile:
    """Write the selected events of `tenants` to `path`, one JSON object a line, in constant memory.

    The file holds payloads: it may be read by nobody else (mode 0600), and appears when it is whole. An existing one is
    replaced.
    """
    counts = Counter[str]()
    with open_event_file(path) as write:
        for tenant in tenants:
            with database.tenant_transaction(tenant, statement_timeout=None) as connection:
                for message in stream_selected(connection, selection):
                    write(tenant, message)
                    counts[tenant.slug] += 1
                    if progress is not None:
                        progress(1)
    return EventFile(path, dict(counts))


@contextmanager
def open_event_file(path: Path) -> Iterator[Callable[[Tenant, Message], None]]:
    """Yield a function that writes one event of a tenant; the file gets its name when the block succeeds."""
    if path.is_dir():
        raise UsageError(f"cannot write {path}: it is a folder")
    part = path.with_name(f"{path.name}.part")
    try:
        file = os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None

    def write(tenant: Tenant, message: Message) -> None:
        file.write(_line(tenant, message))

    try:
        with file:
            yield write
        part.replace(path)
    except BaseException as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise ErpkitError(f"cannot write {path}: {error.strerror}") from error
        raise


def _line(tenant: Tenant, message: Message) -> str:
    values = {
        "tenant": tenant.slug,
        "offset": message.offset,
        "uuid": str(message.uuid),
        "topic": message.topic,
        "recorded_at": message.recorded_at.isoformat() if message.recorded_at else None,
        "metadata": message.metadata,
        "payload": message.payload,
    }
    return json.dumps(values, ensure_ascii=False) + "\n"


def plan_import(database: Database, registry: Registry, tenant: Tenant, path: Path) -> ImportPlan:
    """Check every line of a file, and plan to append to the log of `tenant` what it does not have yet, by uuid.

    It may be another tenant than the one that the events are of. They are new events there: all handlers will be given
    them, those with side effects too. Raises UsageError, naming the line, for one that is no event, that no module
    declares, whose payload does not fit its type, or that is of another tenant than the lines before it.
    """
    new, known = Counter[str](), 0
    for messages in _batches(read_event_file(path, registry)):
        with database.tenant_transaction(tenant) as connection:
            rows = connection.execute(
                "SELECT uuid FROM erpkit_events WHERE uuid = ANY(%s)", [[m.uuid for m in messages]]
            )
            found = {uuid for (uuid,) in rows}
        new.update(message.topic for message in messages if message.uuid not in found)
        known += sum(message.uuid in found for message in messages)
    return ImportPlan(path, tenant, dict(new), known, _digest(path))


def import_events(
    database: Database,
    registry: Registry,
    plan: ImportPlan,
    confirm: str,
    progress: Callable[[int], object] | None = None,
) -> int:
    """Append the events of the file to the tenant's log if `confirm` is the plan's id; return how many were new.

    A thousand in one transaction: after a crash, import it again. Raises PlanChangedError, with nothing done, when the file
    or the log is another than the plan's.
    """
    present = plan_import(database, registry, plan.tenant, plan.path)
    PlanChangedError.check(confirm, present.id)
    for messages in _batches(read_event_file(plan.path, registry)):
        with database.tenant_transaction(plan.tenant, write=True) as connection:
            append(connection, messages)
        if progress is not None:
            progress(len(messages))
    return present.event_count


def read_event_file(path: Path, registry: Registry) -> Iterator[Message]:
    """Read a file of JSON lines, checking each; raises UsageError with the number of the line."""
    topics = {registry.topic(event): event for module in registry.modules for event in module.publishes}
    tenant: object = None
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    values = json.loads(line)
                    message = _message(values, topics)
                    tenant = tenant or values.get("tenant")
                    if values.get("tenant") != tenant:
                        raise ValueError(
                            f"is of tenant {values.get('tenant')}, those before it of {tenant}: import one tenant per file"
                        )
                except (ValueError, PayloadError) as error:
                    raise UsageError(f"{path}, line {number}: {error}") from None
                yield message
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from None


def _message(values: Any, topics: Mapping[str, type]) -> Message:
    if not isinstance(values, dict):
        raise ValueError("is not a JSON object")
    topic, payload, metadata = values.get("topic"), values.get("payload"), values.get("metadata", {})
    if not isinstance(topic, str) or topic not in topics:
        raise ValueError(f"no module publishes {topic!r}")
    if not isinstance(payload, dict):
        raise ValueError("payload is not a JSON object")
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("metadata does not map strings to strings")
    try:
        uuid = UUID(values.get("uuid"))
    except (TypeError, ValueError, AttributeError):
        raise ValueError(f"uuid {values.get('uuid')!r} is not a uuid") from None
    decode(topics[topic], payload)
    return Message(topic, payload, uuid, metadata)


def _batches(messages: Iterable[Message]) -> Iterator[list[Message]]:
    remaining = iter(messages)
    while batch := list(islice(remaining, _BATCH)):
        yield batch


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
