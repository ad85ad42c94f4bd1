"""How subjects, and Kafka's topics, are named: by a pattern, so that a program that sends no tenant header is understood."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from uuid import UUID

from erpkit.errors import UsageError

_PLACE = re.compile(r"\{(\w+)\}")
_PARTS = {"tenant": r"(?P<tenant>[^.]+)", "topic": r"(?P<topic>[^.]+\.[^.]+)", "uuid": r"[^.]+"}
_WORDS = re.compile(r"[A-Za-z0-9_{}-]+(\.[A-Za-z0-9_{}-]+)*")


@dataclass(frozen=True)
class Naming:
    """A pattern of names, such as `erp.{tenant}.{topic}`: parts joined by dots.

    `{tenant}` stands for its slug, `{topic}` for `module.Event`, and `{uuid}` for the message's, as older publishers of Watermill's
    append it. Raises UsageError, naming ERPKIT_BROKER_SUBJECT, for a pattern that cannot be.
    """

    pattern: str

    def __post_init__(self) -> None:
        places = _PLACE.findall(self.pattern)
        is_possible = (
            _WORDS.fullmatch(self.pattern) and set(places) <= _PARTS.keys() and len(places) == len(set(places))
        )
        if not is_possible or "topic" not in places:
            raise UsageError(
                f"ERPKIT_BROKER_SUBJECT is {self.pattern!r}: use parts joined by dots with {{topic}}, and {{tenant}} or {{uuid}}, "
                "once each, such as erp.{tenant}.{topic}"
            )

    @property
    def is_one(self) -> bool:
        """Whether all events of a topic have the same name, whose event it is."""
        return set(_PLACE.findall(self.pattern)) == {"topic"}

    def name(self, tenant: str, topic: str, uuid: UUID | str) -> str:
        """Return the name under which an event of a tenant is published."""
        return self.pattern.format(tenant=tenant, topic=topic, uuid=uuid)

    def wildcard(self, topic: str = "*.*") -> str:
        """Return what stands for a topic of all tenants in NATS and RabbitMQ; for all topics without one."""
        return self.name("*", topic, "*")

    def regex(self, topic: str) -> str:
        """Return what stands for a topic of all tenants in Kafka."""
        parts = {"topic": re.escape(topic), "tenant": _PARTS["uuid"], "uuid": _PARTS["uuid"]}
        return self._compile(parts)

    def read(self, name: str) -> tuple[str | None, str | None]:
        """Return the tenant and the topic that a name says; None for what it does not say."""
        found = self._expression.fullmatch(name)
        return (found.groupdict().get("tenant"), found["topic"]) if found else (None, None)

    @cached_property
    def _expression(self) -> re.Pattern[str]:
        return re.compile(self._compile(_PARTS))

    def _compile(self, parts: dict[str, str]) -> str:
        pieces = _PLACE.split(self.pattern)  # text and names in turn
        return "^" + "".join(parts[one] if number % 2 else re.escape(one) for number, one in enumerate(pieces)) + "$"
