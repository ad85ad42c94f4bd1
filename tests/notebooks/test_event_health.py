"""The notebook event_health, run for real beside every trouble that it is to find."""

from pathlib import Path
from typing import Any

import nbformat
import psycopg
import pytest

from erpkit.database import Database
from erpkit.events import Message, append
from erpkit.modules import Registry
from erpkit.runs import RunResult, open_notebook, run_notebook
from erpkit.sample.demo import Planted
from erpkit.tenants import get_tenant, list_tenants
from tests.conftest import plant_copy


@pytest.fixture(scope="module")
def planted(shared_database: Database, registry: Registry) -> Planted:
    """A fleet with dead letters of one cause in three wordings, and an event that has waited for an hour."""
    erp = plant_copy(shared_database, registry)
    with shared_database.connection() as connection:
        tenant = get_tenant(connection, erp.tenants[0])
        for one in list_tenants(connection):
            connection.execute(
                f"UPDATE {one.schema}.erpkit_dead_letters SET error = error || ' on order ' || \"offset\"".encode()
            )
    with shared_database.tenant_transaction(tenant, write=True) as connection:
        append(connection, [Message("inventory.StockShort", {"order_id": "1", "lacking": {}})])
        connection.execute(
            "UPDATE erpkit_events SET recorded_at = now() - make_interval(hours => 1) "
            'WHERE "offset" = (SELECT max("offset") FROM erpkit_events)'
        )
    return erp


@pytest.fixture(autouse=True)
def environment(shared_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels find their database as a user's would."""
    monkeypatch.setenv("ERPKIT_DATABASE", shared_database.conninfo)
    monkeypatch.setenv("ERPKIT_MODULES", "erpkit.sample")


def _run(folder: Path, **parameters: Any) -> RunResult:
    return run_notebook(open_notebook("event_health"), parameters, folder)


def test_event_health_finds_what_waits_what_failed_and_who_holds_things_back(
    planted: Planted, shared_database: Database, tmp_path: Path
) -> None:
    with psycopg.connect(shared_database.conninfo) as slow:
        slow.execute("SET search_path TO tenant_bluebird")
        append(slow, [Message("inventory.StockShort", {})])  # not committed while the notebook looks
        slow.execute("SELECT pg_sleep(1.1)")
        result = _run(tmp_path, long=1)
        pid = slow.info.backend_pid
        slow.rollback()
    assert (result.outcome, result.exit_code) == ("findings", 3)
    assert result.summary is not None
    facts = result.summary.facts
    assert (facts["waiting"], facts["dead letters"], facts["skipped"]) == (1, 3, planted.suspended)
    findings = "\n".join(result.findings)
    assert f"{planted.tenants[0]}: an event has waited for inventory.on_stock_short for more than 5 min" in findings
    assert "60 min" in result.report.read_text()
    cause = "3 dead letters in 1 tenant: ErpkitError: no exchange rate for CHF on order …"
    assert f"billing.on_stock_reserved: {cause}" in findings
    assert f"bluebird: process {pid} (postgres) appends to the log in a transaction open for" in findings
    assert f"{planted.suspended}: skipped: suspended" in findings
    assert "events wait, and no dispatcher is connected" in findings
    assert len(result.summary.findings) == 5
    node = nbformat.read(result.output, as_version=4)
    assert not [
        o
        for cell in node.cells
        for o in cell.get("outputs", [])
        if o.output_type == "error" or o.get("name") == "stderr"
    ]


def test_event_health_is_not_green_where_there_is_nothing_to_look_at(
    planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERPKIT_TENANTS_QUERY", "SELECT slug, schema_name FROM public.tenants")
    foreign = _run(tmp_path)
    assert (foreign.outcome, foreign.summary) == ("failed", None)
    assert "erpkit only reads this ERP, which has no event log of erpkit's" in str(foreign.error)


def test_event_health_is_content_with_tenants_that_keep_up(planted: Planted, tmp_path: Path) -> None:
    result = _run(tmp_path, tenants=["bluebird"])
    assert (result.outcome, result.summary and result.summary.findings) == ("ok", [])
    page = result.report.read_text()
    assert "nothing waits" in page
    assert "No transaction holds a lock for long." in page
