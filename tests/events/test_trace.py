"""The story of a correlation id, and the list of events by topic, time and correlation."""

import json
from typing import Any

import pytest

from erpkit.database import Database
from erpkit.events import list_events
from erpkit.events.log import hint_topic
from erpkit.sample.demo import Planted
from erpkit.tenants import get_tenant
from tests.command import erpkit, refused


@pytest.fixture(autouse=True)
def environment(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERPKIT_DATABASE", database.conninfo)
    monkeypatch.setenv("ERPKIT_MODULES", "erpkit.sample")


@pytest.fixture
def letter(erp: Planted) -> dict[str, Any]:
    """A dead letter of the sample, with its event's metadata."""
    first = json.loads(erpkit("events", "dead-letters", "list", "--json").stdout)[0]
    shown: dict[str, Any] = json.loads(
        erpkit("events", "dead-letters", "show", erp.dead_letters, str(first["offset"]), "--json").stdout
    )
    return shown


def _trace(*arguments: str) -> tuple[int, dict[str, Any]]:
    done = erpkit("events", "trace", *arguments, "--json")
    return done.returncode, json.loads(done.stdout)


def test_a_story_goes_from_the_command_to_the_dead_letter_in_order_of_time(letter: dict[str, Any]) -> None:
    code, found = _trace(letter["metadata"]["correlation_id"])
    kinds = [entry["kind"] for entry in found["entries"]]
    assert (code, kinds[0], found["errors"]) == (3, "command", {})
    assert {"event", "effect", "dead letter"} <= set(kinds)
    events = [entry for entry in found["entries"] if entry["kind"] == "event"]
    assert events[0]["by"] == found["entries"][0]["what"]  # the command published it
    assert all(entry["by"] for entry in events)
    times = [entry["at"] for entry in found["entries"] if entry["at"]]
    assert times == sorted(times)
    assert all(entry["payload"] is None for entry in events)
    (told,) = [entry for entry in found["entries"] if entry["kind"] == "dead letter"]
    assert told["detail"].startswith("open: ")
    assert (told["what"], told["offset"]) == (letter["handler"], letter["offset"])


def test_any_event_of_a_story_leads_to_it_in_one_tenant_or_all(erp: Planted, letter: dict[str, Any]) -> None:
    whole = _trace(letter["metadata"]["correlation_id"])[1]
    assert _trace(letter["uuid"])[1] == whole
    assert _trace(letter["uuid"], "--tenant", erp.dead_letters)[1] == whole
    shown = _trace(letter["uuid"], "--payload")[1]
    assert {entry["payload"] is not None for entry in shown["entries"] if entry["kind"] == "event"} == {True}
    refused(erpkit("events", "trace", letter["uuid"], "--tenant", erp.drifted), 2, "1 tenant has")
    refused(erpkit("events", "trace", "nonsense"), 2, "nonsense")


def test_what_a_handler_has_not_had_yet_waits_at_the_end_of_the_story(erp: Planted, database: Database) -> None:
    slug = erp.drifted
    with database.connection() as connection:
        connection.execute(f"DELETE FROM tenant_{slug}.erpkit_checkpoints; DELETE FROM tenant_{slug}.erpkit_inbox")
        tenant = get_tenant(connection, slug)
    with database.tenant_transaction(tenant) as connection:
        newest = list_events(connection, 1)[0]
    entries = _trace(newest.correlation_id)[1]["entries"]
    assert {entry["kind"] for entry in entries} == {"command", "event", "waits"}
    assert entries[-1]["at"] is None


def test_events_are_listed_by_topic_time_and_correlation(erp: Planted, letter: dict[str, Any]) -> None:
    def listed(*options: str) -> Any:
        return json.loads(erpkit("events", "list", erp.dead_letters, *options, "--json").stdout)

    assert {one["topic"].split(".")[0] for one in listed("--topic", "billing.*")} == {"billing"}
    one = listed("--correlation-id", letter["metadata"]["correlation_id"], "--topic", letter["topic"])
    assert [event["uuid"] for event in one] == [letter["uuid"]]
    assert "payload" not in one[0]
    assert "payload" in listed("--payload", "--limit", "1")[0]
    middle = listed("--limit", "10000")[3]["recorded_at"].replace(" ", "T")
    assert len(listed("--since", middle)) == 4
    assert listed("--until", middle)[0]["offset"] == listed("--since", middle)[-1]["offset"] - 1
    assert "$" not in erpkit("events", "list", erp.dead_letters, "--topic", "sales.OrderPlaced").stdout


def test_a_topic_that_nothing_fits_is_answered_with_those_that_are_like_it(erp: Planted) -> None:
    wrong = ("--topic", "sale.OrderPlaced")
    assert "did you mean sales.OrderPlaced" in erpkit("events", "list", erp.dead_letters, *wrong).stderr
    assert "did you mean sales.OrderPlaced" in erpkit("events", "replay", *wrong).stderr
    assert "did you mean inventory" in erpkit("events", "dead-letters", "list", "--topic", "INVENTORY.*").stderr
    assert hint_topic("sales.*", ["sales.OrderPlaced"]) == ""
    assert hint_topic("x", []) == "no topic fits 'x'; there are no topics"


def test_a_story_of_no_id_is_refused(erp: Planted) -> None:
    refused(erpkit("events", "trace", ""), 2, "the id is empty")
