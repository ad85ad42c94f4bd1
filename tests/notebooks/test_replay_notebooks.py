"""The notebooks replay_events and rebuild_projection: dry run, guard, resume, proof."""

import threading
from pathlib import Path
from typing import Any

import pytest

from erpkit.config import Settings
from erpkit.database import Database
from erpkit.events import ReplayPlan, ReplayRequest, RunOptions, Selection, plan_replay, plan_request, run_replay
from erpkit.modules import Registry, load_modules
from erpkit.nats import NatsServer
from erpkit.runs import RunResult, open_notebook, run_notebook
from erpkit.sample.demo import Planted
from erpkit.tenants import get_tenant
from tests.conftest import plant_copy
from tests.events.brokers.streams import stored


@pytest.fixture(scope="module")
def planted(shared_database: Database, registry: Registry) -> Planted:
    return plant_copy(shared_database, registry)


@pytest.fixture(autouse=True)
def environment(shared_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERPKIT_DATABASE", shared_database.conninfo)
    monkeypatch.setenv("ERPKIT_MODULES", "erpkit.sample")


def _run(name: str, folder: Path, **parameters: Any) -> RunResult:
    return run_notebook(open_notebook(name), parameters, folder)


def _facts(result: RunResult) -> dict[str, Any]:
    assert result.summary is not None, result.error
    return dict(result.summary.facts)


def test_a_replay_that_was_stopped_is_resumed_from_the_notebook(
    planted: Planted, shared_database: Database, registry: Registry, tmp_path: Path
) -> None:
    with shared_database.connection() as connection:
        tenant = get_tenant(connection, "bluebird")
        plan = plan_replay(connection, [tenant], registry, Selection("sales.*"))
    stop = threading.Event()
    run = run_replay(shared_database, registry, plan, plan.id, RunOptions(lambda _: stop.set(), stop, rate=4))
    assert run.handled == 1
    again = {"resume": str(run.replay_id), "export_to": str(tmp_path / "events.jsonl"), "topic": "sales.*"}
    dry = _run("replay_events", tmp_path, **again)
    facts = _facts(dry)
    assert (facts["plan"], facts["planned"], facts["done before"]) == (plan.id, plan.event_count, 1)
    assert (tmp_path / "events.jsonl").exists()
    done = _run("replay_events", tmp_path, **again, dry_run=False, confirm=plan.id)
    assert _facts(done)["handled"] == plan.event_count - 1
    page = done.report.read_text()
    for text in (str(run.replay_id), "Count the customer", "sales.on_order_placed"):
        assert text in page


def test_events_are_published_on_a_brokers_subject_from_the_notebook(
    planted: Planted, shared_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = NatsServer(tmp_path / "nats")
    server.start()
    monkeypatch.setenv("ERPKIT_BROKER", server.url)
    chosen = {"tenants": ["bluebird"], "topic": "billing.*", "send_to": "broker:audit"}
    try:
        plan = _plan(shared_database, ReplayRequest(Selection("billing.*"), send_to="broker:audit"))
        done = _run("replay_events", tmp_path, **chosen, dry_run=False, confirm=plan.id)
        assert (_facts(done)["sent"], done.exit_code) == (plan.event_count, 0)
        assert len(stored(server, "bluebird", "audit", "AUDIT")) == plan.event_count
    finally:
        server.stop()
    for text in (f"{server.url}, subject audit", "broker:audit"):
        assert text in done.report.read_text()


def test_watermills_tables_are_shown_and_replayed_from_the_notebook(
    planted: Planted, shared_database: Database, tmp_path: Path
) -> None:
    with shared_database.connection() as connection:
        connection.execute("SET search_path TO tenant_bluebird")
        connection.execute(
            'CREATE TABLE watermill_invoices ("offset" bigserial, uuid varchar(36), created_at timestamp DEFAULT now(), '
            "payload json, metadata json, transaction_id xid8 DEFAULT pg_current_xact_id())"
        )
        connection.execute(
            "INSERT INTO watermill_invoices (uuid, payload, metadata) SELECT uuid, payload, jsonb_build_object('name', topic) "
            "FROM erpkit_events WHERE topic = 'billing.InvoiceCreated'"
        )
        connection.execute("RESET search_path")
    plan = _plan(shared_database, ReplayRequest(Selection(), watermill=True))
    done = _run("replay_events", tmp_path, tenants=["bluebird"], watermill=True, dry_run=False, confirm=plan.id)
    assert (_facts(done)["plan"], _facts(done)["handled"]) == (plan.id, plan.event_count)
    assert plan.event_count > 0
    assert "invoices" in done.report.read_text()


def _plan(database: Database, request: ReplayRequest) -> ReplayPlan:
    settings = Settings.from_env()
    with database.connection() as connection:
        tenant = get_tenant(connection, "bluebird")
    return plan_request(database, load_modules(settings), [tenant], request, settings)


def test_a_projection_is_compared_in_a_dry_run_and_then_put_in_place(
    planted: Planted, shared_database: Database, tmp_path: Path
) -> None:
    prices = "SELECT sku, price FROM tenant_bluebird.catalog_price_list ORDER BY 1"
    with shared_database.connection() as connection:
        before = connection.execute(prices).fetchall()
        skus = [sku for sku, _ in before]
        connection.execute("UPDATE tenant_bluebird.catalog_price_list SET price = 0 WHERE sku = ANY(%s)", [skus[:2]])
        connection.execute("DELETE FROM tenant_bluebird.catalog_price_list WHERE sku = %s", [skus[2]])
        changed = connection.execute(prices).fetchall()
    chosen = {"tenant": "bluebird", "handler": "catalog.on_price_changed"}
    dry = _run("rebuild_projection", tmp_path, **chosen)
    assert (dry.exit_code, _facts(dry)["written"]) == (3, 0)
    assert "no such row" in dry.report.read_text()
    wrong = _run("rebuild_projection", tmp_path, **chosen, dry_run=False, confirm="swap-0000000000")
    assert "nothing was done" in str(wrong.error)
    with shared_database.connection() as connection:
        assert changed != before
        assert connection.execute(prices).fetchall() == changed
    done = _run("rebuild_projection", tmp_path, **chosen, dry_run=False, confirm=_facts(dry)["swap"])
    assert (done.exit_code, _facts(done)["written"]) == (0, len({*before} - {*changed}))
    with shared_database.connection() as connection:
        assert connection.execute(prices).fetchall() == before
