"""erpkit events seek on the command line: a plan, a confirmed id, an exit code."""

from __future__ import annotations

import json
import re

import pytest

from erpkit.database import Database
from erpkit.sample.demo import Planted
from tests.command import erpkit, refused


@pytest.fixture(autouse=True)
def environment(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERPKIT_DATABASE", database.conninfo)
    monkeypatch.setenv("ERPKIT_MODULES", "erpkit.sample")


def test_a_checkpoint_is_moved_by_plan(erp: Planted) -> None:
    seek = ("events", "seek", "billing.on_stock_reserved", "--to", "10", "--tenant", erp.dead_letters)
    dry = erpkit(*seek)
    assert dry.returncode == 0
    assert "dry run: nothing was changed" in dry.stderr
    (plan,) = re.findall(r"--confirm (seek-\w{10})", dry.stderr)
    document = json.loads(erpkit(*seek, "--json").stdout)
    assert (document["plan"], document["tenants"][0]["target"]) == (plan, 9)
    done = erpkit(*seek, "--confirm", plan)
    assert (done.returncode, "moved billing.on_stock_reserved to 10 in 1 tenant" in done.stderr) == (0, True)
    refused(erpkit(*seek, "--confirm", plan), 2, "nothing was done")


def test_a_handler_and_a_place_that_are_not_there_are_refused(erp: Planted) -> None:
    refused(erpkit("events", "seek", "billing.on_nothing", "--to", "now"), 2, "no handler is named billing.on_nothing")
    refused(erpkit("events", "seek", "billing.on_stock_reserved", "--to", "soon"), 2, "--to", "'soon' is not a time")
    words = "write beginning, now, removed, an offset, or a time as 2026-"
    refused(erpkit("events", "seek", "billing.on_stock_reserved", "--to", "never"), 2, words)


def test_a_place_beyond_the_end_of_the_log_passes_over_no_event_that_is_to_come(erp: Planted) -> None:
    seek = ("events", "seek", "billing.on_stock_reserved", "--tenant", erp.dead_letters)
    end = json.loads(erpkit("events", "list", erp.dead_letters, "--limit", "1", "--json").stdout)[0]["offset"]
    (start,) = re.findall(r"--confirm (seek-\w{10})", erpkit(*seek, "--to", "10").stderr)
    assert erpkit(*seek, "--to", "10", "--confirm", start).returncode == 0
    for beyond in (str(end + 2), str(2**63), "9" * 30):
        assert (
            "its log holds no event from there on: those to come are all handled"
            in erpkit(*seek, "--to", beyond).stderr
        )
        assert json.loads(erpkit(*seek, "--to", beyond, "--json").stdout)["tenants"][0]["target"] == end
    assert "no event from there on" not in erpkit(*seek, "--to", str(end + 1)).stderr


def test_the_checkpoint_of_a_removed_handler_is_let_go_by_plan(erp: Planted, database: Database) -> None:
    with database.connection() as connection:
        connection.execute(
            "INSERT INTO tenant_acme.erpkit_checkpoints (consumer_group, \"offset\") VALUES ('billing.gone', 3)"
        )
    seek = ("events", "seek", "billing.gone", "--to", "removed")
    lag = erpkit("events", "lag")
    assert f"erpkit {' '.join(seek)}" in lag.stderr
    (plan,) = re.findall(r"--confirm (seek-\w{10})", erpkit(*seek).stderr)
    assert erpkit(*seek, "--confirm", plan).returncode == 0
    assert "billing.gone" not in erpkit("events", "lag").stdout
    refused(erpkit("events", "seek", "billing.on_stock_reserved", "--to", "removed"), 2, "a module has it")
