"""Selecting past events, and reading them in order, in constant memory."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from psycopg import sql

from erpkit.database import Connection
from erpkit.errors import UsageError
from erpkit.events.log import COLUMNS, check_time_zones, to_message
from erpkit.events.message import Message

_ROWS_A_FETCH = 2000


@dataclass(frozen=True)
class Selection:
    """Which events of the log: all conditions hold together, and None, (), "" or "*" means no limit.

    `topic` is a pattern such as `billing.*`; offsets are inclusive; `since` is inclusive and `until` is not, and both need
    a time zone. `uuids` are those of events; `correlation_id` is that of the command that they go back to.
    """

    topic: str = "*"
    first_offset: int | None = None
    last_offset: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    uuids: Sequence[UUID | str] = ()
    correlation_id: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "correlation_id", self.correlation_id or None)
        try:
            object.__setattr__(self, "uuids", tuple(UUID(str(uuid)) for uuid in self.uuids))
        except ValueError:
            raise UsageError(f"uuids = {', '.join(map(str, self.uuids))}: one of them is not a uuid") from None
        check_time_zones(since=self.since, until=self.until)
        if (self.first_offset or 0) < 0 or (self.last_offset or 0) < 0:
            raise UsageError("an offset is below 0: the log begins at 1")
        if self.first_offset and self.last_offset and self.first_offset > self.last_offset:
            raise UsageError(
                f"no offset lies between {self.first_offset} and {self.last_offset}: they are the wrong way round"
            )
        if self.since and self.until and self.since >= self.until:
            raise UsageError(f"no time lies between {self.since.isoformat()} and {self.until.isoformat()}")

    def has_topic(self, topic: str) -> bool:
        """Whether a topic fits the pattern."""
        return fnmatch.fnmatchcase(topic, self.topic)

    def condition(self) -> sql.Composed:
        """Return the selection as the condition of a WHERE clause, without the topic."""
        limits = [
            ('"offset" >=', self.first_offset),
            ('"offset" <=', self.last_offset),
            ("recorded_at >=", self.since),
            ("recorded_at <", self.until),
            ("metadata->>'correlation_id' =", self.correlation_id),
        ]
        parts = [sql.SQL(left + " {}").format(sql.Literal(value)) for left, value in limits if value is not None]
        if self.uuids:
            parts.append(sql.SQL("uuid = ANY({})").format(sql.Literal(list(self.uuids))))
        return sql.SQL(" AND ").join([sql.SQL("true"), *parts])


class Span(NamedTuple):
    """A part of the log: events of `topics` past offset `after`, up to `last`."""

    topics: Sequence[str]
    after: int
    last: int


def read_selected(
    connection: Connection,
    selection: Selection,
    span: Span,
    limit: int,
    replay_id: UUID | None = None,
) -> list[Message]:
    """Read up to `limit` selected events of a part of the log, in its order.

    Each topic is read along its index and the pieces are merged, so that all batches together read the log once.
    """
    piece = sql.SQL(
        "(SELECT {columns} FROM erpkit_events WHERE topic = {topic} AND {condition} "
        'AND "offset" > {after} AND "offset" <= {last} ORDER BY "offset" LIMIT {limit})'
    )
    pieces = [
        piece.format(
            columns=sql.SQL(COLUMNS), topic=sql.Literal(topic), condition=selection.condition(),
            after=sql.Literal(span.after), last=sql.Literal(span.last), limit=sql.Literal(limit),
        )
        for topic in span.topics
    ]  # fmt: skip
    if not pieces:
        return []
    query = sql.SQL('SELECT * FROM ({}) e ORDER BY "offset" LIMIT {}').format(
        sql.SQL(" UNION ALL ").join(pieces), sql.Literal(limit)
    )
    return [
        Message(topic, payload, uuid, metadata, offset, recorded_at, replay_id)
        for offset, uuid, topic, payload, metadata, recorded_at in connection.execute(query)
    ]


def stream_selected(connection: Connection, selection: Selection) -> Iterator[Message]:
    """Read all selected events in the order of the log through a server-side cursor, in constant memory.

    `connection` is inside a tenant's transaction.
    """
    topics = list_topics(connection, selection)
    with connection.cursor(name="erpkit_selected") as cursor:
        cursor.itersize = _ROWS_A_FETCH
        cursor.execute(
            sql.SQL('SELECT {} FROM erpkit_events WHERE topic = ANY({}) AND {} ORDER BY "offset"').format(
                sql.SQL(COLUMNS), sql.Literal(topics), selection.condition()
            )
        )
        yield from map(to_message, cursor)


def list_selected(connection: Connection, selection: Selection, limit: int) -> list[Message]:
    """Read the newest selected events of the present tenant's log, newest first."""
    topics = list_topics(connection, selection) if selection.topic != "*" else None
    fits = sql.SQL("true") if topics is None else sql.SQL("topic = ANY({})").format(sql.Literal(topics))
    query = sql.SQL('SELECT {} FROM erpkit_events WHERE {} AND {} ORDER BY "offset" DESC LIMIT {}').format(
        sql.SQL(COLUMNS), fits, selection.condition(), sql.Literal(limit)
    )
    return [to_message(row) for row in connection.execute(query)]


def list_topics(connection: Connection, selection: Selection) -> list[str]:
    """Return the topics in the present tenant's log that fit the selection's pattern."""
    rows = connection.execute(
        "WITH RECURSIVE t AS ((SELECT topic FROM erpkit_events ORDER BY topic LIMIT 1) UNION ALL "
        "SELECT (SELECT topic FROM erpkit_events e WHERE e.topic > t.topic ORDER BY topic LIMIT 1) FROM t "
        "WHERE t.topic IS NOT NULL) SELECT topic FROM t WHERE topic IS NOT NULL"
    )
    return [topic for (topic,) in rows if selection.has_topic(topic)]
