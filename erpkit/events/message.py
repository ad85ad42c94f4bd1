"""A message: what travels between modules, and how its payload becomes JSON and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID, uuid4, uuid5

from erpkit.errors import ErpkitError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = ["Message", "PayloadError", "decode", "encode"]


_T = TypeVar("_T")

_ADAPTERS: dict[type, TypeAdapter[Any]] = {}  # building one takes far longer than using it


class PayloadError(ErpkitError):
    """A payload does not fit the type of its topic."""


@dataclass(frozen=True)
class Message:
    """An event as it stands in the log, or a command on its way.

    `metadata` maps strings to strings and follows Watermill's keys: `name`, `correlation_id`. `offset` and `recorded_at` are
    set once it is in a tenant's log; `replay_id` while it is being replayed.
    """

    topic: str
    payload: Mapping[str, Any]
    uuid: UUID = field(default_factory=uuid4)
    metadata: Mapping[str, str] = field(default_factory=dict)
    offset: int | None = None
    recorded_at: datetime | None = None
    replay_id: UUID | None = None

    @property
    def is_replay(self) -> bool:
        """Whether a handler sees this message again because an operator asked for it."""
        return self.replay_id is not None

    @property
    def correlation_id(self) -> str:
        """The id of the command or event that everything began with."""
        return self.metadata.get("correlation_id", str(self.uuid))

    def cause(self, topic: str, payload: Mapping[str, Any], key: str) -> Message:
        """Return a new message caused by this one.

        Its uuid is derived from this one's and `key`, so that handling a message twice cannot publish two events.
        """
        metadata = {
            "name": topic.rsplit(".", 1)[-1],
            "correlation_id": self.correlation_id,
            "causation_id": str(self.uuid),
        }
        if self.replay_id is not None:
            metadata["replay_id"] = str(self.replay_id)
        return Message(topic, payload, uuid5(self.uuid, key), metadata)


def encode(event: object) -> dict[str, Any]:
    """Turn a dataclass or pydantic model into JSON values; decimals and dates become strings, exactly."""
    values: dict[str, Any] = _adapter(type(event)).dump_python(event, mode="json")
    return values


def decode(kind: type[_T], payload: Mapping[str, Any]) -> _T:
    """Build a `kind` from JSON values; raises PayloadError, naming the field, when they do not fit."""
    from pydantic import ValidationError  # noqa: PLC0415

    try:
        event: _T = _adapter(kind).validate_python(payload)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise PayloadError(f"{kind.__name__}.{place}: {first['msg']}") from None
    return event


def _adapter(kind: type) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter  # noqa: PLC0415 - slow to import

    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]
