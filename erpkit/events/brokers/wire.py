"""How an event looks on the wire: a JSON body, and Watermill's headers.

Watermill's NATS and Kafka publishers send the uuid as `_watermill_message_uuid` and each key of the metadata as a header of its
own (its `pkg/nats/marshaler.go` and `pkg/kafka/marshaler.go`); so a Go program reads what erpkit sends, and the other way round.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

from erpkit.events.brokers.broker import LIVE, Delivery, Route
from erpkit.events.message import Message

STREAM = "ERP"
JSON = "application/json"

_UUID = "_watermill_message_uuid"
MESSAGE_ID = "Nats-Msg-Id"  # by which JetStream drops duplicates; elsewhere it is a header like any other
_IS_REPLAY, _REPLAY = "is_replay", "replay_id"  # the second alone: caused by an event that was replayed
EXPECTED_LAST = "Nats-Expected-Last-Msg-Id"  # of the message before it: JetStream refuses what would overtake that one
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")  # which no text in PostgreSQL may hold
_OWN = {_UUID, MESSAGE_ID, EXPECTED_LAST, "tenant", "offset", _IS_REPLAY, "content-type", "Nats-Expected-Stream"}
MARK = "erpkit.forwarded"  # the name of what a forwarder leaves on a broker, to notice one that was wiped


class MalformedError(ValueError):
    """A message from the broker is not an event of any tenant: it names no tenant, or has no uuid."""


def headers_of(tenant: str, message: Message, route: Route = LIVE) -> dict[str, str]:
    """Return the headers of a message: Watermill's, its tenant, its offset, and whether it is replayed."""
    offset = {} if message.offset is None else {"offset": str(message.offset)}
    metadata = {key: " ".join(value.splitlines()) for key, value in message.metadata.items() if key not in _OWN}
    return {
        **metadata,
        "correlation_id": message.correlation_id,
        _UUID: str(message.uuid),
        MESSAGE_ID: message_id(message, route),
        "tenant": tenant,
        **offset,
        **({_IS_REPLAY: "true", _REPLAY: str(message.replay_id)} if message.is_replay else {}),
    }


def body_of(message: Message) -> bytes:
    """Return the payload as JSON."""
    return json.dumps(message.payload, separators=(",", ":"), ensure_ascii=False).encode()


def size_of(tenant: str, message: Message, route: Route = LIVE) -> int:
    """Return how many bytes a message has on the wire, body and headers, as NATS counts them."""
    headers = {**headers_of(tenant, message, route), "content-type": JSON, "Nats-Expected-Stream": STREAM}
    return len(body_of(message)) + sum(len(f"{key}: {value}\r\n".encode()) for key, value in headers.items()) + 12


def message_id(message: Message, route: Route = LIVE) -> str:
    """Return what a broker knows a message by: the event's uuid, or one of this replay's own."""
    return f"{message.uuid}/{message.replay_id}" if route.again and message.is_replay else str(message.uuid)


def from_wire(topic: str, headers: Mapping[str, Any], body: bytes, tenant: str | None = None) -> Delivery:
    """Build the delivery of headers made by `headers_of`, or by Watermill's own marshalers, and a JSON body.

    `tenant` is whom the subject names: it has precedence over a header, as a broker may guard who publishes on a subject. A body
    that is no JSON is handed on as text: it fits no event, and becomes a dead letter with a reason. Raises MalformedError for
    what cannot even become that.
    """
    try:
        text = {key: value.decode() if isinstance(value, bytes) else str(value) for key, value in headers.items()}
        tenant, (uuid, own_id) = tenant or text["tenant"], _uuid(text)
        offset = int(text["offset"]) if "offset" in text else None
        replay_id = UUID(text.pop(_REPLAY)) if text.get(_IS_REPLAY) == "true" else None
    except (KeyError, ValueError) as error:
        raise MalformedError(f"a message on {topic} has no usable header: {error}") from None
    metadata = {key: value.replace("\0", "") for key, value in text.items() if key not in _OWN} | own_id
    return Delivery(tenant, Message(topic, payload_of(body), uuid, metadata, offset, replay_id=replay_id))


def _uuid(headers: Mapping[str, str]) -> tuple[UUID, dict[str, str]]:
    """Return a message's uuid, and what its metadata says of it."""
    return uuid_of(headers[_UUID]) if headers.get(_UUID) else (UUID(headers[MESSAGE_ID]), {})


def uuid_of(text: str) -> tuple[UUID, dict[str, str]]:
    """Return the uuid for an id of Watermill's; for a ULID, say, one that follows from it, and the id as metadata."""
    try:
        return UUID(text), {}
    except ValueError:
        return uuid5(NAMESPACE_OID, text), {_UUID: text}


def payload_of(body: bytes) -> Any:
    """Return what a body says in JSON that PostgreSQL can keep; the text of any other."""
    try:
        value = json.loads(body)
        written = json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return body.decode(errors="replace").replace("\0", "�")
    return body.decode() if _NUL.search(written) else value
