"""Payloads and their versions: what is validated, what is left out, and how old ones become new."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from erpkit.events import Message, PayloadError, decode, decode_message, encode
from erpkit.events.middleware import poisoned
from erpkit.modules import Module, Registry, Upcaster
from erpkit.sample.inventory import module as inventory
from erpkit.sample.inventory.messages import StockReceived


@dataclass(frozen=True)
class Parcel:
    weight: int
    note: str = ""


@dataclass(frozen=True)
class Sent:
    name: str
    price: Decimal
    parcels: tuple[Parcel, ...] = ()


class Model(BaseModel):
    count: int


def _split_total(payload: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had price and currency in one text."""
    payload["price"], payload["currency"] = payload.pop("total").split(" ")
    return payload


def _drop_currency(payload: dict[str, Any]) -> dict[str, Any]:
    """Version 2 had a currency, which was always EUR."""
    del payload["currency"]
    return payload


REGISTRY = Registry.of(
    [Module("post", publishes=(Sent,), upcasters=(Upcaster(Sent, 2, _drop_currency), Upcaster(Sent, 1, _split_total)))]
)


def _message(payload: dict[str, Any], **metadata: str) -> Message:
    return Message("post.Sent", payload, UUID(int=1), metadata)


def test_a_payload_becomes_json_and_back_from_dataclasses_and_models() -> None:
    event = Sent("x", Decimal("10.10"), (Parcel(3),))
    assert encode(event) == {"name": "x", "price": "10.10", "parcels": [{"weight": 3, "note": ""}]}
    assert decode(Sent, encode(event)) == event
    assert decode(Model, encode(Model(count=3))) == Model(count=3)


@pytest.mark.parametrize(
    ("event", "place"),
    [
        (Sent(None, Decimal(1)), r"Sent\.name: Input should be a valid string"),  # type: ignore[arg-type]
        (Sent("x", "much"), r"Sent\.price"),  # type: ignore[arg-type]
        (Sent("x", Decimal(1), (Parcel("heavy"),)), r"Sent\.parcels\.0\.weight"),  # type: ignore[arg-type]
    ],
)
def test_an_event_that_nobody_could_read_is_refused_where_it_is_made(event: Sent, place: str) -> None:
    with pytest.raises(PayloadError, match=place):
        encode(event)


def test_a_field_that_is_not_known_is_left_out_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    payload = {"name": "x", "price": "1", "colour": "red", "parcels": [{"weight": 1, "nott": "x"}]}
    assert decode(Sent, payload) == decode(Sent, payload) == Sent("x", Decimal(1), (Parcel(1),))
    assert sorted(record.getMessage() for record in caplog.records) == [
        "Sent: ignored the unknown field colour: it is misspelt, or of a newer version",
        "Sent: ignored the unknown field nott: it is misspelt, or of a newer version",
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_a_required_field_that_is_misspelt_is_an_error() -> None:
    with pytest.raises(PayloadError, match=r"Sent\.price: Field required"):
        decode(Sent, {"name": "x", "prise": "1"})


def test_a_payload_of_each_old_version_is_read_as_the_present_one() -> None:
    sent = Sent("x", Decimal("9.50"))
    old = {"name": "x", "total": "9.50 EUR"}
    assert decode_message(REGISTRY, Sent, _message(old)) == sent  # without a version it is the first
    assert decode_message(REGISTRY, Sent, _message(old, version="1")) == sent
    assert (
        decode_message(REGISTRY, Sent, _message({"name": "x", "price": "9.50", "currency": "EUR"}, version="2")) == sent
    )
    assert decode_message(REGISTRY, Sent, _message({"name": "x", "price": "9.50"}, version="3")) == sent
    assert old == {"name": "x", "total": "9.50 EUR"}  # an upcaster works on a copy


def test_a_version_that_is_newer_than_known_is_refused_and_says_what_to_do() -> None:
    with pytest.raises(
        PayloadError, match=r"post\.Sent: the payload of \S+ is of version 4, and 3 is the newest known here"
    ):
        decode_message(REGISTRY, Sent, _message({"name": "x", "price": "9.50"}, version="4"))


@pytest.mark.parametrize("version", ["", "two", "0", "-1", "1.0", "²"])
def test_a_version_that_is_no_number_is_refused(version: str) -> None:
    with pytest.raises(PayloadError, match="not a number above 0"):
        decode_message(REGISTRY, Sent, _message({}, version=version))


def test_an_upcaster_that_fails_is_named_with_its_version() -> None:
    with pytest.raises(PayloadError, match=r"post\.Sent: the upcaster from version 1 failed on \S+: KeyError: 'total'"):
        decode_message(REGISTRY, Sent, _message({"name": "x"}))


def test_the_sample_erp_reads_stock_received_as_it_was_written_before_the_field_was_renamed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = Registry((inventory,))
    old = Message("inventory.StockReceived", {"sku": "A-001", "quantity": 5})
    assert decode_message(registry, StockReceived, old) == StockReceived("A-001", 5)
    assert caplog.records == []  # nothing of the old payload is left over


def test_a_dead_letter_that_leaves_the_log_carries_watermills_metadata() -> None:
    letter = poisoned(_message({}, correlation_id="c"), ValueError("no price"), "billing.on_sent", "nats")
    assert letter.metadata == {
        "correlation_id": "c",
        "reason_poisoned": "ValueError: no price",
        "topic_poisoned": "post.Sent",
        "handler_poisoned": "billing.on_sent",
        "subscriber_poisoned": "nats",
    }
    assert letter.uuid == UUID(int=1)
