"""erpkit events replay as an operator meets it."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from erpkit.database import Database
from erpkit.modules import Registry
from erpkit.sample.demo import Planted
from tests.command import erpkit, refused
from tests.conftest import plant_copy


@pytest.fixture(scope="module")
def planted(shared_database: Database, registry: Registry) -> Planted:
    return plant_copy(shared_database, registry)


@pytest.fixture(autouse=True)
def environment(shared_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERPKIT_DATABASE", shared_database.conninfo)
    monkeypatch.setenv("ERPKIT_MODULES", "erpkit.sample")


def replay(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return erpkit("events", "replay", "--tenant", "acme", *arguments)


def test_a_plan_is_shown_and_applied_as_json(planted: Planted) -> None:
    plan = json.loads(replay("--topic", "billing.*", "--json").stdout)
    assert {step["does"] for step in plan["steps"]} == {
        "Enter the invoice in the ledger, a projection with one line an invoice: it may be replayed.",
        "Add up what was paid on the invoice anew, so that a replay changes nothing.",
    }
    run = json.loads(replay("--topic", "billing.*", "--json", "--confirm", plan["plan"]).stdout)
    assert (run["handled"], run["state"]) == (plan["events"], "done")
    records = json.loads(erpkit("events", "replays", "--json").stdout)
    assert [(r["tenant"], r["state"], r["plan_id"]) for r in records] == [("acme", "done", plan["plan"])]


def test_side_effects_are_named_when_they_were_asked_for(planted: Planted) -> None:
    shown = replay("--topic", "sales.OrderPlaced", "--side-effects", "inventory.on_order_placed").stderr
    assert "inventory.on_order_placed: has side effects: Keep the whole order on the shelf" in shown


def test_ctrl_c_tells_how_to_go_on_and_the_rest_is_done_then(planted: Planted, shared_database: Database) -> None:
    plan = json.loads(replay("--json").stdout)
    code = "from erpkit.cli import main; main()"
    arguments = ["events", "replay", "--tenant", "acme", "--rate", "8", "--confirm", plan["plan"]]
    worker = subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True)
    with shared_database.connection() as connection:
        query = "SELECT max(handled) FROM tenant_acme.erpkit_replays WHERE state = 'running'"
        while connection.execute(query).fetchall() in ([(None,)], [(0,)]) and worker.poll() is None:
            time.sleep(0.02)
    worker.send_signal(signal.SIGINT)
    _, told = worker.communicate(timeout=60)
    assert (worker.returncode, "Traceback" in told) == (130, False)
    _, _, resume = told.partition("to resume: erpkit ")
    assert erpkit(*resume.split()).returncode == 0  # as it was told
    record = json.loads(erpkit("events", "replays", "--json").stdout)[0]
    assert (record["state"], record["handled"]) == ("done", plan["events"])


def test_events_go_to_a_file_and_into_another_tenants_log(planted: Planted, tmp_path: Path) -> None:
    file = f"file:{tmp_path / 'events.jsonl'}"
    assert "of 1 tenant" in replay("--topic", "catalog.*", "--to", file).stderr
    shown = erpkit("events", "replay", "--tenant", "cobalt", "--from", file).stderr
    done = erpkit(
        "events", "replay", "--tenant", "cobalt", "--from", file, "--confirm", shown.split("--confirm ")[1].strip()
    )
    assert "events appended to the log of cobalt" in done.stderr


def test_a_projection_changed_by_hand_is_found_and_mended(planted: Planted, shared_database: Database) -> None:
    ledger = "SELECT invoice_id, invoiced, paid FROM tenant_acme.billing_ledger ORDER BY 1"
    with shared_database.connection() as connection:
        before = connection.execute(ledger).fetchall()
        connection.execute("UPDATE tenant_acme.billing_ledger SET invoiced = 0")
    shown = replay("--handler", "billing.on_invoice_created", "--shadow")
    assert shown.returncode == 3
    swap = ("--handler", "billing.on_payment_received", "--swap", "--confirm")  # the same projection
    refused(replay(*swap, "swap-0000000000"), 2, "nothing was done")
    assert "erpkit_shadow_acme_" in erpkit("events", "shadows").stdout
    assert replay(*swap, shown.stderr.split("--confirm ")[1].strip()).returncode == 0
    with shared_database.connection() as connection:
        assert connection.execute(ledger).fetchall() == before
    assert json.loads(erpkit("events", "shadows", "--json").stdout) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--to", "s3:x"), "--to 's3:x' is not a target: write broker, broker:SUBJECT or file:PATH"),
        (("--shadow",), "--shadow needs exactly one --handler, not 0"),
        (("--shadow", "--to", "file:x"), "exclude one another"),
        (("--resume-shadow",), "goes with --shadow"),
        (("--to", "file:x", "--again"), "again is for a replay to a broker"),
        (("--from-offset", "5", "--to-offset", "3"), "no offset lies between 5 and 3"),
        (("--swap", "--handler", "catalog.on_price_changed", "--confirm", "x"), "acme has no shadow of catalog_price_list"),
        (("--shadow", "--handler", "inventory.on_order_placed"), "declares no table that it writes"),
        (("--resume", "00000000-0000-0000-0000-000000000000"), "no tenant has a replay"),
        (("--since", "yesterday"), "is not a time"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_in_one_line(planted: Planted, arguments: tuple[str, ...], message: str) -> None:
    refused(replay(*arguments), 2, message)


def test_an_erp_without_watermills_tables_has_none_to_list(planted: Planted) -> None:
    assert json.loads(erpkit("events", "watermill", "--json").stdout) == []
    assert json.loads(replay("--watermill", "--json").stdout)["events"] == 0
