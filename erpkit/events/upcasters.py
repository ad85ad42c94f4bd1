"""Making old payloads new: upcasters take them from the version they were written in to the present one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from erpkit.events.message import Message, PayloadError, decode
from erpkit.modules import Registry

__all__ = ["decode_message", "upcast"]

_T = TypeVar("_T")


def decode_message(registry: Registry, kind: type[_T], message: Message) -> _T:
    """Build the event of a message, whatever version it was written in; raises PayloadError when that cannot be done."""
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
