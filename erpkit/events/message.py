"""Messages, which travel between modules, and their payloads as JSON."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID, uuid4, uuid5

from erpkit.errors import ErpkitError
from erpkit.modules import Registry

if TYPE_CHECKING:
    from pydantic import TypeAdapter


_T = TypeVar("_T")

_ADAPTERS: dict[type, TypeAdapter[Any]] = {}  # building one takes far longer than using it

_EXTRA = {"extra_forbidden", "unexpected_keyword_argument"}  # what pydantic calls a field that is too many

_log = logging.getLogger("erpkit.events")
_told: set[tuple[type, str]] = set()  # unknown fields that were logged already: once a process is enough
_MANY = 1000  # a payload with keys at random shall not fill log and memory


class PayloadError(ErpkitError):
    """A payload does not fit the type of its topic."""


@dataclass(frozen=True)
class Message:
    """An event as it stands in the log, or a command on its way.

    `metadata` maps strings to strings and follows Watermill's keys: `name`, `correlation_id`. `version` in it is that of its
    payload, 1 if absent; `traceparent` is W3C's. `offset` and `recorded_at` are
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
        """The id of the command or event that started the chain."""
        return self.metadata.get("correlation_id", str(self.uuid))

    @property
    def version(self) -> int:
        """The version of its type that the payload was written in; raises PayloadError when that is not a number."""
        text = self.metadata.get("version", "1")
        if not (text.isascii() and text.isdigit() and int(text)):
            raise PayloadError(f"{self.topic}: version {text!r} in the metadata of {self.uuid} is not a number above 0")
        return int(text)

    def cause(self, topic: str, payload: Mapping[str, Any], key: str, version: int = 1) -> Message:
        """Return a new message caused by this one.

        Its uuid is derived from this one's and `key`, so that handling a message twice cannot publish two events.
        """
        metadata = {"name": topic.rsplit(".", 1)[-1], **self.heritage()}
        if version > 1:
            metadata["version"] = str(version)
        return Message(topic, payload, uuid5(self.uuid, key), metadata)

    def heritage(self) -> dict[str, str]:
        """Return the metadata that messages inherit from this one, which causes them: correlation, cause, trace and replay."""
        metadata = {key: self.metadata[key] for key in ("traceparent", "tracestate") if key in self.metadata}
        metadata |= {"correlation_id": self.correlation_id, "causation_id": str(self.uuid)}
        if self.replay_id is not None:
            metadata["replay_id"] = str(self.replay_id)
        return metadata

    def with_metadata(self, more: Mapping[str, str]) -> Message:
        """Return this message with `more` in its metadata."""
        return replace(self, metadata={**self.metadata, **more})


def encode(event: object) -> dict[str, Any]:
    """Turn a dataclass or pydantic model into JSON values; decimals and dates become strings, exactly.

    Raises PayloadError when its values are not of its fields' types: nobody could read it.
    """
    adapter = _adapter(type(event))
    values: dict[str, Any] = adapter.dump_python(event, mode="json", warnings=False)
    _validate(type(event), values)
    return values


def fields_of(payload: object) -> dict[str, Any]:
    """Return the fields of a payload; what another program wrote may be no object, and then is the one field `value`."""
    return dict(payload) if isinstance(payload, Mapping) else {} if payload is None else {"value": payload}


def check_storable(place: str, value: object) -> None:
    """Raise PayloadError, naming the field, for what JSON in PostgreSQL cannot hold: a NUL, half a character, NaN, infinity."""
    if isinstance(value, str):
        if "\0" in value:
            raise PayloadError(f"{place}: the text holds a NUL character, which PostgreSQL cannot store")
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise PayloadError(f"{place}: the text holds a lone surrogate, which is no character and cannot be stored")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise PayloadError(f"{place}: {value} is not a number that JSON can hold")
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            check_storable(place, name)
            check_storable(f"{place}.{name}", inner)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            check_storable(f"{place}.{number}", inner)


def decode(kind: type[_T], payload: Mapping[str, Any]) -> _T:
    """Build a `kind` from JSON values; raises PayloadError, naming the field, when they do not fit.

    A field that `kind` does not have is left out, and logged once as a warning. A newer writer may add fields without
    breaking an older reader, and a field that is misspelt is seen in the log, or missed if it is required.
    """
    from pydantic import ValidationError  # noqa: PLC0415

    try:
        event: _T = _adapter(kind).validate_python(payload, extra="forbid")
    except ValidationError as error:
        event = _validate(kind, payload)
        _tell_unknown(kind, [str(e["loc"][-1]) for e in error.errors() if e["type"] in _EXTRA])
    return event


def list_unknown(kind: type, payload: Mapping[str, Any]) -> list[str]:
    """Return the fields of a payload that `kind` does not have, as paths such as `lines.0.amount`."""
    from pydantic import ValidationError  # noqa: PLC0415

    try:
        _adapter(kind).validate_python(payload, extra="forbid")
    except ValidationError as error:
        return [".".join(map(str, one["loc"])) for one in error.errors() if one["type"] in _EXTRA]
    return []


def decode_message(registry: Registry, kind: type[_T], message: Message) -> _T:
    """Build the event of a message of any version; raises PayloadError when its payload does not fit."""
    return decode(kind, upcast(registry, kind, message))


def upcast(registry: Registry, kind: type, message: Message) -> Mapping[str, Any]:
    """Return the payload of a message in the present version of its type.

    Raises PayloadError for a version that is newer than known, as this ERP cannot tell what it means, and for a payload that
    an upcaster fails on.
    """
    present = registry.version(kind)
    if message.version > present:
        raise PayloadError(
            f"{message.topic}: the payload of {message.uuid} is of version {message.version}, and {present} is the newest known "
            "here: deploy the version of the ERP that wrote it, then retry"
        )
    payload = message.payload
    for upcaster in registry.upcasters(kind)[message.version - 1 :]:
        try:
            payload = upcaster.function(dict(payload))
        except Exception as error:
            raise PayloadError(
                f"{message.topic}: the upcaster from version {upcaster.from_version} failed on {message.uuid}: "
                f"{type(error).__name__}: {error}"
            ) from error
    return payload


def _validate(kind: type[_T], payload: Mapping[str, Any]) -> _T:
    from pydantic import ValidationError  # noqa: PLC0415

    try:
        event: _T = _adapter(kind).validate_python(payload)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([kind.__name__, *(str(part) for part in first["loc"])])
        raise PayloadError(f"{place}: {first['msg']}") from None
    return event


def _tell_unknown(kind: type, names: Sequence[str]) -> None:
    for name in names:
        if (kind, name) not in _told and len(_told) < _MANY:
            _told.add((kind, name))
            _log.warning("%s: ignored the unknown field %s: it is misspelt, or of a newer version", kind.__name__, name)


def _adapter(kind: type) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter  # noqa: PLC0415 - slow to import

    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]
