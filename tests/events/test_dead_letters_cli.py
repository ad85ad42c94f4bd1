"""erpkit events dead-letters, as an operator meets it."""

import json
import re
import shlex
from typing import Any

import pytest

from erpkit.database import Database
from erpkit.sample.demo import Planted
from tests.command import erpkit, on_a_terminal, refused, rows_of


@pytest.fixture(autouse=True)
def environment(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERPKIT_DATABASE", database.conninfo)
    monkeypatch.setenv("ERPKIT_MODULES", "erpkit.sample")


def letters(*arguments: str) -> Any:
    return json.loads(erpkit("events", "dead-letters", *arguments, "--json").stdout)


def test_letters_are_counted_shown_and_retried_by_plan(erp: Planted, database: Database) -> None:
    counted = erpkit("events", "dead-letters", "count")
    assert counted.returncode == 3
    assert "ErpkitError: no exchange rate for CHF" in counted.stdout
    assert letters("count", "--by", "tenant") == {erp.dead_letters: 3}
    offset = str(letters("list")[0]["offset"])
    hidden, shown = (letters("show", erp.dead_letters, offset, *more) for more in ((), ("--payload",)))
    assert "payload" not in hidden
    assert shown["payload"]["currency"] == "CHF"

    dry = erpkit("events", "dead-letters", "retry", "--cause", "no exchange rate")
    assert (dry.returncode, dry.stderr.splitlines()[0][:8]) == (0, "target: ")
    (plan,) = re.findall(r"--confirm (retry-\w{10})", dry.stderr)
    options = ("events", "dead-letters", "retry", "--cause", "no exchange rate", "--confirm", plan)
    again = erpkit(*options)  # the cause is not mended yet
    assert (again.returncode, [row[4] for row in rows_of(again)].count("failed")) == (3, 3)
    with database.connection() as connection:
        connection.execute(f"INSERT INTO tenant_{erp.dead_letters}.billing_exchange_rates VALUES ('CHF', 1.05)")
    done = erpkit(*options)
    assert (done.returncode, f"{plan}: 3 handled\n" in done.stderr) == (0, True)
    refused(erpkit(*options), 2, "nothing was done")  # nothing of that plan is left
    assert erpkit("events", "dead-letters", "list").returncode == 0


def test_a_terminal_shows_commands_that_can_be_pasted_for_these_letters(erp: Planted) -> None:
    def commands(*arguments: str) -> list[str]:
        shown = on_a_terminal("events", "dead-letters", *arguments, columns=80)
        return [line.strip() for line in shown.splitlines() if line.startswith("    erpkit ")]

    slug = erp.dead_letters
    show, retry, runbook = commands("list", "--tenant", slug)
    offset = show.split()[-1]
    assert runbook == "erpkit run runbooks/poisoned_message -p rehearse false"
    assert (show, retry) == (
        f"erpkit events dead-letters show {slug} {offset}", f"erpkit events dead-letters retry --tenant {slug}",
    )  # fmt: skip
    assert commands("count", "--tenant", slug, "--by", "cause")[1] == retry
    one = f"--tenant {slug} --handler billing.on_stock_reserved --offset {offset}"
    assert commands(*show.split()[3:]) == [
        f"{show} --payload", f"erpkit events dead-letters retry {one}",
        f"erpkit events dead-letters edit {slug} {offset} --set FIELD=VALUE --reason TEXT",
        f"erpkit events dead-letters discard {one} --reason TEXT",
    ]  # fmt: skip
    change = ("edit", slug, offset, "--set", "currency=EUR", "--reason", "typed wrong")
    (planned,) = commands(*change)
    assert commands(*shlex.split(planned)[3:]) == [f"erpkit events dead-letters retry {one}"]


def test_letters_are_discarded_by_plan_and_with_a_reason(erp: Planted) -> None:
    refused(erpkit("events", "dead-letters", "discard"), 2, "--reason")
    plan = letters("discard", "--reason", "a test")
    assert (plan["letters"], plan["counts"][0]["letters"]) == (3, 3)
    first = str(plan["offsets"][erp.dead_letters][0])
    one = letters("discard", "--reason", "a test", "--offset", first)
    run = letters("discard", "--reason", "a test", "--offset", first, "--confirm", one["id"])
    assert [result["state"] for result in run["results"]] == ["discarded"]
    assert letters("show", erp.dead_letters, first)["reason"] == "a test"
    refused(erpkit("events", "dead-letters", "show", erp.dead_letters, "1"), 2, "no dead letter at offset 1")
    refused(erpkit("events", "dead-letters", "list", "--since", "noon"), 2, "--since 'noon' is not a time")


def test_a_payload_is_edited_by_plan_kept_in_the_audit_and_retried(erp: Planted, database: Database) -> None:
    slug = erp.dead_letters
    first = letters("list")[0]
    offset, change = str(first["offset"]), ("--set", "currency=EUR", "--reason", "the shop sent CH francs by mistake")
    dry = erpkit("events", "dead-letters", "edit", slug, offset, *change)
    assert (dry.returncode, "currency" in dry.stdout, "CHF" in dry.stdout) == (0, True, False)
    (plan,) = re.findall(r"--confirm (edit-\w{10})", dry.stderr)
    assert '"CHF"' in erpkit("events", "dead-letters", "edit", slug, offset, *change, "--payload").stdout
    assert letters("show", slug, offset)["edits"] == []

    done = erpkit("events", "dead-letters", "edit", slug, offset, *change, "--confirm", plan)
    assert (done.returncode, f"retry --tenant {slug}" in done.stderr) == (0, True)
    again = letters("retry", "--offset", offset)
    retried = erpkit("events", "dead-letters", "retry", "--offset", offset, "--confirm", again["id"])
    assert (retried.returncode, "handled" in retried.stdout) == (0, True)
    assert (
        f"1 event published by the handlers: a dispatcher handles them\n    erpkit events dispatch --once --tenant {slug}"
        in (retried.stderr)
    )
    (edit,) = letters("show", slug, offset, "--payload")["edits"]
    shown = erpkit("events", "dead-letters", "show", slug, offset).stdout
    assert re.search(r"edit 1\t\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC by ", shown)  # as the other times of a letter
    assert (edit["plan"], edit["reason"]) == (plan, change[-1])
    assert (edit["before"]["currency"], edit["after"]["currency"]) == ("CHF", "EUR")
    with database.connection() as connection:  # the event itself is as it was
        event = connection.execute(
            f"SELECT payload->>'currency' FROM tenant_{slug}.erpkit_events WHERE uuid = %s", [first["uuid"]]
        )
        assert event.fetchone() == ("CHF",)
    refused(erpkit("events", "dead-letters", "edit", slug, offset, *change), 2, "its dead letter is resolved")


def test_an_edit_that_the_handler_could_not_read_is_refused_with_the_field(erp: Planted) -> None:
    offset = str(letters("list")[0]["offset"])
    edit = ("events", "dead-letters", "edit", erp.dead_letters, offset, "--reason", "a test")
    refused(erpkit(*edit, "--set", "order_id=twelve"), 1, "order_id")
    refused(erpkit(*edit, "--set", "zz=1"), 2, "StockReserved has no field zz; the payload has ")
    refused(erpkit(*edit, "--set", "lines.99.amount=1"), 2, "the payload has no lines.99.amount; its fields are")
    refused(erpkit(*edit, "--set", "currency"), 2, "is not FIELD=VALUE")
    for text, fault in (("a\\u0000b", "a NUL character"), ("a\\ud800b", "a lone surrogate")):
        refused(
            erpkit(*edit, "--set", f'currency="{text}"'), 1, "currency: the text holds", fault, "nothing was edited"
        )
    refused(erpkit(*edit, "--set", "currency=EUR", "--reason", " "), 2, "needs a reason")


def test_a_payload_of_another_program_that_has_no_fields_is_shown_and_not_edited(
    erp: Planted, database: Database
) -> None:
    slug, one = erp.dead_letters, letters("list")[0]
    with database.connection() as connection:
        connection.execute(f"UPDATE tenant_{slug}.erpkit_events SET payload = '[1]' WHERE uuid = %s", [one["uuid"]])
    offset = str(one["offset"])
    for command in (("dead-letters", "show", slug, offset), ("trace", one["uuid"]), ("list", slug, "--limit", "1000")):
        shown = erpkit("events", *command, "--payload")
        assert (shown.returncode in {0, 3}, "value" in shown.stdout) == (True, True), shown.stderr
    edit = ("events", "dead-letters", "edit", slug, offset, "--reason", "a test", "--set", "currency=EUR")
    refused(erpkit(*edit), 2, "the payload is [1] and has no fields to edit")


def test_where_letters_are_open_and_none_matches_that_is_what_is_said(erp: Planted) -> None:
    chosen = ("--handler", "nohandler*")
    for command in (("list", *chosen), ("retry", *chosen), ("discard", *chosen, "--reason", "a test")):
        assert (
            "No dead letter matches; 3 others are open."
            in erpkit("events", "dead-letters", *command, "-o", "table").stdout
        )
    others = erpkit("events", "dead-letters", "list", "--tenant", erp.drifted, *chosen).stderr
    assert "no dead letters" in others


def test_where_no_event_matches_a_replay_says_so(erp: Planted) -> None:
    shown = erpkit("events", "replay", "--topic", "nothing.*").stderr
    assert "No event matches: there is nothing to replay." in shown
