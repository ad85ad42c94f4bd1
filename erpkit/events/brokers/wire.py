"""How an event looks on the wire: a JSON body, and Watermill's headers.

Watermill's NATS and Kafka publishers send the uuid as `_watermill_message_uuid` and each key of the metadata as a header of its
own (its `pkg/nats/marshaler.go` and `pkg/kafka/marshaler.go`); so a Go program reads what erpkit sends, and the other way round.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from erpkit.events.brokers.broker import Delivery
from erpkit.events.message import Message

__all__ = ["STREAM", "MalformedError", "from_wire", "headers_of", "subject_of"]

STREAM = "ERP"

_UUID = "_watermill_message_uuid"
_MESSAGE_ID = "Nats-Msg-Id"  # by which JetStream drops duplicates; elsewhere it is a header like any other
_OWN = {_UUID, _MESSAGE_ID, "tenant", "offset", "content-type", "Nats-Expected-Stream"}


class MalformedError(ValueError):
    """What came from the broker is not an event of any tenant: it names no tenant, or has no uuid."""


def subject_of(tenant: str, topic: str) -> str:
    """Return the subject of a tenant's topic; `*` as the tenant stands for all of them."""
    return f"erp.{tenant}.{topic}"


def headers_of(tenant: str, message: Message) -> dict[str, str]:
    """Return the headers of a message: Watermill's, and which tenant's it is and where in its log."""
    offset = {} if message.offset is None else {"offset": str(message.offset)}
    metadata = {key: " ".join(value.splitlines()) for key, value in message.metadata.items() if key not in _OWN}
    return {
        **metadata,
        "correlation_id": message.correlation_id,
        _UUID: str(message.uuid),
        _MESSAGE_ID: str(message.uuid),
        "tenant": tenant,
        **offset,
    }


def from_wire(topic: str, headers: Mapping[str, Any], body: bytes) -> Delivery:
    """Build what `headers_of` and the JSON body were made from.

    A body that is no JSON is handed on as text: it fits no event, and becomes a dead letter with a reason. Raises
    MalformedError for what cannot even become that.
    """
    try:
        text = {key: value.decode() if isinstance(value, bytes) else str(value) for key, value in headers.items()}
        tenant, uuid = text["tenant"], UUID(text.get(_UUID) or text[_MESSAGE_ID])
        offset = int(text["offset"]) if "offset" in text else None
    except (KeyError, ValueError) as error:
        raise MalformedError(f"a message on {topic} has no usable header: {error}") from None
    metadata = {key: value for key, value in text.items() if key not in _OWN}
    return Delivery(tenant, Message(topic, _payload(body), uuid, metadata, offset))


def _payload(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")
