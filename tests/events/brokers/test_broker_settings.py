"""ERPKIT_BROKER: checked once, and never shown with its password."""

from uuid import uuid4

import pytest

from erpkit.config import Settings, mask_url
from erpkit.errors import UsageError
from erpkit.events.brokers.broker import open_broker
from erpkit.events.brokers.wire import MalformedError, from_wire, headers_of
from erpkit.events.message import Message


def test_the_broker_is_in_memory_unless_it_is_named() -> None:
    assert Settings.from_env({}).broker == "memory:"
    assert Settings.from_env({"ERPKIT_BROKER": "nats://host:4222"}).broker == "nats://host:4222"
    assert open_broker(Settings()).name == "memory:"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mqtt://erp:s3cret@host", "is not a broker's URL: use memory:, nats://"),
        ("host:4222", "is not a broker"),
        ("s3cret", "is not a broker"),
        ("nats://", "names no host: write it as nats://host:port"),
        ("kafka://erp:s3cret@", "names no host"),
        ("memory:somewhere", "takes no address"),
    ],
)
def test_a_broker_that_cannot_be_meant_is_refused_in_one_line_without_its_password(url: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        Settings.from_env({"ERPKIT_BROKER": url})
    assert reason in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("memory:", "memory:"),
        ("nats://host:4222", "nats://host:4222"),
        ("nats://token@host:4222", "nats://***@host:4222"),
        ("redis://:s3/cr@t?@host:6379/0?password=s3cret", "redis://***@host:6379/0"),
        ("nats://erp:s3cret@one:4222,erp:s3cret@two:4222", "nats://***@two:4222"),
    ],
)
def test_a_url_is_shown_without_user_password_token_and_options(url: str, shown: str) -> None:
    assert mask_url(url) == shown
    assert "s3" not in repr(Settings(broker=url))


def test_a_message_survives_the_wire() -> None:
    metadata = {"name": "Counted", "correlation_id": "c", "note": "two\nlines"}
    message = Message("counter.Counted", {"number": 1}, metadata=metadata, offset=7)
    headers = headers_of("acme", message)
    delivery = from_wire("counter.Counted", {key: value.encode() for key, value in headers.items()}, b'{"number": 1}')
    assert delivery.tenant == "acme"
    assert (delivery.message.uuid, delivery.message.offset) == (message.uuid, 7)
    assert delivery.message.metadata == {**metadata, "note": "two lines"}  # a header is one line
    assert delivery.message.payload == {"number": 1}


def test_a_replayed_message_says_so_on_the_wire_and_one_that_it_caused_does_not() -> None:
    replayed = Message("counter.Counted", {"number": 1}, metadata={"correlation_id": "c"}, replay_id=uuid4())
    caused = replayed.cause("counter.Noticed", {"number": 1}, "x")
    first, second = (from_wire(each.topic, headers_of("acme", each), b"{}").message for each in (replayed, caused))
    assert (first.replay_id, first.metadata) == (replayed.replay_id, {"correlation_id": "c"})
    assert (second.is_replay, second.metadata["replay_id"]) == (False, str(replayed.replay_id))


@pytest.mark.parametrize("headers", [{}, {"tenant": "acme"}, {"tenant": "acme", "Nats-Msg-Id": "no uuid"}])
def test_what_names_no_tenant_or_has_no_uuid_is_no_event(headers: dict[str, str]) -> None:
    with pytest.raises(MalformedError, match=r"a message on counter\.Counted has no usable header"):
        from_wire("counter.Counted", headers, b"{}")
