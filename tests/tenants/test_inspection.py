"""What inspection sees of health: transactions, locks, indexes, dead rows, backlog, estimates; and one tenant in depth."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from erpkit.database import TEMPLATE, Connection, Database, Tenant
from erpkit.events import consumer_groups, dispatch
from erpkit.migrations import Migration
from erpkit.modules import Registry
from erpkit.runs import open_notebook, run_notebook
from erpkit.sample.demo import Planted
from erpkit.tenants import get_tenant, inspect_tenant, inspect_tenants, list_tenants
from erpkit.tenants.health import read_blockers
from erpkit.tenants.locks import Locks
from tests.command import erpkit, refused
from tests.conftest import plant_copy


@pytest.fixture(scope="module")
def planted(shared_database: Database, registry: Registry) -> Planted:
    planted = plant_copy(shared_database, registry)
    shared_database.close()  # sessions that end have told the server all that they did
    return planted


@pytest.fixture
def connection(shared_database: Database) -> Iterator[Connection]:
    with shared_database.connection() as connection:
        yield connection


@pytest.fixture
def tenant(connection: Connection, planted: Planted) -> Tenant:
    return get_tenant(connection, planted.tenants[0])


@contextmanager
def _holding(database: Database, statement: str) -> Iterator[psycopg.Connection]:
    """Another session with a transaction open in which `statement` was run."""
    with psycopg.connect(database.conninfo) as other:
        other.execute(statement.encode())
        yield other
        other.rollback()


def test_a_long_transaction_and_one_that_waits_for_its_lock_are_named(
    shared_database: Database,
    connection: Connection,
    tenant: Tenant,
    planted: Planted,
    migrations: tuple[Migration, ...],
) -> None:
    lock = f"LOCK TABLE {tenant.schema}.sales_accounts IN SHARE ROW EXCLUSIVE MODE"
    with _holding(shared_database, lock) as holder, psycopg.connect(shared_database.conninfo) as waiter:
        waiting = threading.Thread(target=lambda: waiter.execute(lock))
        waiting.start()
        schemas = [one.schema for one in list_tenants(connection)]
        for _ in range(500):
            found = read_blockers(connection, schemas, long=0.0)
            if any(blocker.is_waiting for blocker in found.get(tenant.schema, ())):
                break
        assert set(found) == {tenant.schema}
        blockers = {blocker.pid: blocker for blocker in found[tenant.schema]}
        held, waits = blockers[holder.info.backend_pid], blockers[waiter.info.backend_pid]
        assert (held.is_waiting, held.state, held.tables) == (False, "idle in transaction", ("sales_accounts",))
        assert (waits.is_waiting, waits.blocked_by) == (True, (holder.info.backend_pid,))
        (inspection,) = inspect_tenants(connection, [tenant], migrations)
        holder.rollback()
        waiting.join()
    assert any(f"waits for a lock on sales_accounts, held by {held.pid}" in problem for problem in inspection.problems)
    assert read_blockers(connection, schemas, long=0.0) == {}


def test_a_short_transaction_is_no_problem(
    shared_database: Database, connection: Connection, tenant: Tenant, migrations: tuple[Migration, ...]
) -> None:
    with _holding(shared_database, f"SELECT FROM {tenant.schema}.sales_orders"):
        assert inspect_tenants(connection, [tenant], migrations)[0].blockers == ()


def test_unused_and_missing_indexes_are_told(
    connection: Connection, tenant: Tenant, migrations: tuple[Migration, ...]
) -> None:
    with connection.transaction(force_rollback=True):
        connection.execute(f"CREATE INDEX nobody_reads_it ON {tenant.schema}.sales_customers (country, name)")
        (before,) = inspect_tenants(connection, [tenant], migrations)
        connection.execute(f"CREATE INDEX ON {tenant.schema}.catalog_price_history (sku, id)")
        (after,) = inspect_tenants(connection, [tenant], migrations)
    assert "nobody_reads_it" in [index.name for index in before.unused_indexes]
    assert not {"sales_customers_pkey", "billing_invoices_order_id_key"} & {i.name for i in before.unused_indexes}
    missing = "catalog_price_history (sku): foreign key without an index"
    assert missing in [str(one) for one in before.missing_indexes]
    assert missing not in [str(one) for one in after.missing_indexes]
    assert "sales_order_lines (order_id)" not in str([str(one) for one in before.missing_indexes])


def test_estimates_are_said_to_be_such_and_come_near(
    shared_database: Database, connection: Connection, planted: Planted, migrations: tuple[Migration, ...]
) -> None:
    tenant = get_tenant(connection, planted.tenants[1])
    connection.execute(f"ANALYZE {tenant.schema}.sales_orders, {tenant.schema}.erpkit_events")
    (exact,) = inspect_tenants(connection, [tenant], migrations)
    (estimated,) = inspect_tenants(connection, [tenant], migrations, exact=False)
    assert (exact.is_exact, estimated.is_exact, estimated.week_events) == (True, False, None)
    assert exact.week_events == exact.event_count > 0
    assert estimated.rows.keys() == exact.rows.keys()
    assert estimated.rows["sales_orders"] == exact.rows["sales_orders"]
    assert estimated.event_count == exact.event_count
    assert estimated.last_event == exact.last_event
    assert 0.2 * exact.size < estimated.size < 2 * exact.size


def test_the_backlog_counts_events_that_wait_for_each_handler(
    shared_database: Database,
    connection: Connection,
    tenant: Tenant,
    registry: Registry,
    migrations: tuple[Migration, ...],
) -> None:
    groups = consumer_groups(registry)
    (inspection,) = inspect_tenants(connection, [tenant], migrations, groups=groups)
    assert inspection.backlog == {}
    handler, topic = groups[0].name, groups[0].topics[0]
    with connection.transaction(force_rollback=True):
        connection.execute(
            f'UPDATE {tenant.schema}.erpkit_checkpoints SET "offset" = 0 WHERE consumer_group = %s', [handler]
        )
        (inspection,) = inspect_tenants(connection, [tenant], migrations, groups=groups)
        count = connection.execute(
            f"SELECT count(*) FROM {tenant.schema}.erpkit_events WHERE topic = %s", [topic]
        ).fetchone()
    assert (inspection.backlog.get(handler, 0),) == count
    assert set(inspection.backlog) <= {handler}
    assert dispatch(shared_database, tenant, registry).handled == 0


def test_dead_rows_are_counted(connection: Connection, tenant: Tenant, migrations: tuple[Migration, ...]) -> None:
    connection.execute(f"UPDATE {tenant.schema}.catalog_products SET name = name")
    connection.execute("SELECT pg_stat_force_next_flush()")
    connection.execute("SELECT 1")
    assert inspect_tenants(connection, [tenant], migrations)[0].dead_rows >= 6


def test_one_tenant_is_shown_in_depth(
    connection: Connection, tenant: Tenant, registry: Registry, migrations: tuple[Migration, ...]
) -> None:
    connection.execute(f"VACUUM {tenant.schema}.sales_orders")
    detail = inspect_tenant(connection, tenant, migrations, groups=consumer_groups(registry))
    tables = {table.name: table for table in detail.tables}
    assert tables["sales_orders"].rows == 13
    assert tables["sales_orders"].last_vacuum is not None
    assert {"sales_orders_customer", "sales_orders_pkey"} <= {i.name for i in detail.indexes if i.is_valid}
    assert sum(detail.topics.values()) == detail.inspection.event_count


def test_a_tenant_without_a_schema_is_shown_as_such(connection: Connection, planted: Planted) -> None:
    detail = inspect_tenant(connection, Tenant("gone", "tenant_gone"), [])
    assert detail.tables == ()
    assert detail.inspection.problems == ["gone: its schema tenant_gone does not exist"]


@contextmanager
def _locked(database: Database, tenant: Tenant, table: str) -> Iterator[int]:
    """Another session that holds a table as a migration would; yields its process id."""
    with _holding(database, f"LOCK TABLE {tenant.schema}.{table} IN ACCESS EXCLUSIVE MODE") as other:
        yield other.info.backend_pid


def test_a_locked_table_is_a_finding_of_its_tenant_and_the_others_are_inspected_fully(
    shared_database: Database, connection: Connection, planted: Planted, migrations: tuple[Migration, ...]
) -> None:
    tenants = list_tenants(connection)
    connection.execute(f"ANALYZE {tenants[0].schema}.sales_orders")
    free = {i.tenant.slug: i for i in inspect_tenants(connection, tenants, migrations)}
    with _locked(shared_database, tenants[0], "sales_orders") as pid:
        started = time.monotonic()
        locked, *others = inspect_tenants(connection, tenants, migrations)
        assert time.monotonic() - started < 25  # and not as long as the lock is held
    (line,) = [line for line in locked.problems if "locked" in line]
    assert line == (
        f"{tenants[0].slug}: table sales_orders is locked by process {pid} (postgres, idle in transaction); "
        "its rows were not counted; not read: drift"
    )
    assert locked.rows == free[locked.tenant.slug].rows
    assert (locked.versions, locked.event_count) == (free[locked.tenant.slug].versions, locked.rows["erpkit_events"])
    assert 0 < locked.size <= free[locked.tenant.slug].size
    for other in others:
        before = free[other.tenant.slug]
        assert (other.rows, other.size, other.problems) == (before.rows, before.size, before.problems)


@pytest.mark.parametrize(
    "table", ["erpkit_events", "erpkit_checkpoints", "erpkit_dead_letters", "goose_db_version_sales"]
)
def test_locked_bookkeeping_is_not_read_and_nothing_is_concluded_from_that(
    shared_database: Database,
    connection: Connection,
    planted: Planted,
    registry: Registry,
    migrations: tuple[Migration, ...],
    table: str,
) -> None:
    tenants = list_tenants(connection)
    with _locked(shared_database, tenants[0], table):
        locked, *others = inspect_tenants(connection, tenants, migrations, groups=consumer_groups(registry))
    assert locked.unread == ("versions", "last event", "dead letters", "backlog", "drift")
    assert [line.split(" is ")[0] for line in locked.problems] == [f"{tenants[0].slug}: table {table}"]
    assert (locked.pending, locked.last_event) == (0, None)
    assert all(other.unread == () and other.last_event is not None for other in others)


def test_a_lock_on_an_index_or_one_that_is_only_waited_for_is_not_waited_for_either(
    shared_database: Database, connection: Connection, tenant: Tenant, migrations: tuple[Migration, ...]
) -> None:
    with _holding(shared_database, f"DROP INDEX {tenant.schema}.sales_orders_customer"):
        (inspection,) = inspect_tenants(connection, [tenant], migrations)
    assert [lock.table for lock in inspection.locked] == ["sales_orders"]
    reading = f"SELECT FROM {tenant.schema}.sales_orders"
    with _holding(shared_database, reading) as reader, psycopg.connect(shared_database.conninfo) as waiter:
        lock = f"LOCK TABLE {tenant.schema}.sales_orders IN ACCESS EXCLUSIVE MODE"
        waiting = threading.Thread(target=lambda: waiter.execute(lock))
        waiting.start()
        for _ in range(500):
            if read_blockers(connection, [tenant.schema]):
                break
        (inspection,) = inspect_tenants(connection, [tenant], migrations)
        assert f"about to be locked by process {waiter.info.backend_pid}" in str(inspection.problems)
        reader.rollback()
        waiting.join()


def test_a_lock_that_comes_up_while_tables_are_read_is_left_out_then(
    shared_database: Database, connection: Connection, tenant: Tenant, migrations: tuple[Migration, ...]
) -> None:
    locks = Locks(connection, [tenant.schema])
    with _locked(shared_database, tenant, "sales_orders") as pid:
        (inspection,) = inspect_tenants(connection, [tenant], migrations, locks=locks)
    assert [(lock.table, lock.pid) for lock in inspection.locked] == [("sales_orders", pid)]
    assert connection.execute("SHOW lock_timeout").fetchone() == ("0",)


def test_a_locked_template_leaves_drift_out_and_nothing_else(
    shared_database: Database, connection: Connection, tenant: Tenant, migrations: tuple[Migration, ...]
) -> None:
    with _locked(shared_database, TEMPLATE, "sales_orders"):
        (inspection,) = inspect_tenants(connection, [tenant], migrations)
    assert inspection.unread == ("drift",)
    assert any(line.endswith("_template is locked; not read: drift") for line in inspection.problems)


def test_a_locked_table_is_estimated_in_depth(
    shared_database: Database, connection: Connection, tenant: Tenant, migrations: tuple[Migration, ...]
) -> None:
    connection.execute(f"VACUUM ANALYZE {tenant.schema}.sales_orders")
    free = inspect_tenant(connection, tenant, migrations)
    with _locked(shared_database, tenant, "sales_orders"):
        locked = inspect_tenant(connection, tenant, migrations)
    assert locked.inspection.locked
    assert {t.name: t.rows for t in locked.tables} == {t.name: t.rows for t in free.tables}
    assert len(locked.indexes) == len(free.indexes)
    with _locked(shared_database, tenant, "erpkit_events"):
        assert inspect_tenant(connection, tenant, migrations).topics == {}


def test_a_locked_table_does_not_keep_the_estimates_of_a_fleet_from_being_read(
    shared_database: Database, connection: Connection, planted: Planted, migrations: tuple[Migration, ...]
) -> None:
    tenants = list_tenants(connection)
    with _locked(shared_database, tenants[0], "erpkit_events"):
        inspections = inspect_tenants(connection, tenants, migrations, exact=False)
    assert [bool(i.locked) for i in inspections] == [True, False, False, False]
    assert "not counted" not in str(inspections[0].problems)


def test_the_command_line_waits_for_no_lock_and_shows_growth(
    shared_database: Database, connection: Connection, planted: Planted, tmp_path: Path
) -> None:
    environ = {"ERPKIT_DATABASE": shared_database.conninfo, "ERPKIT_MODULES": "erpkit.sample"}
    monday = tmp_path / "monday.json"
    monday.write_text(erpkit("tenants", "inspect", "--json", **environ).stdout)
    (grown, locked, *_) = list_tenants(connection)
    with connection.transaction():
        connection.execute(
            f"CREATE TABLE {grown.schema}.notes AS SELECT repeat('x', 100) FROM generate_series(1, 5000)"
        )
    with _locked(shared_database, locked, "sales_orders") as pid:
        started = time.monotonic()
        shown = erpkit("tenants", "inspect", "--since", str(monday), "-o", "table", **environ).stdout
        assert time.monotonic() - started < 25
    assert f"! {locked.slug}: table sales_orders is locked by process {pid}" in shown
    line = next(line.split() for line in shown.splitlines() if line.strip().startswith(grown.slug))
    assert "+5,000" in line
    assert [word for word in line if word.startswith("+") and 0.4 < float(word.replace(",", "")) < 10]
    assert "growth since 20" in shown
    alone = erpkit("tenants", "inspect", grown.slug, "--since", str(monday), "--json", **environ)
    (tenant,) = json.loads(alone.stdout)["tenants"]
    assert tenant["growth"]["tables"]["notes"]["rows"] == tenant["growth"]["rows"] == 5000
    shown = erpkit("tenants", "inspect", grown.slug, "--since", str(monday), "-o", "table", **environ).stdout
    notes = next(
        line.split() for line in shown.splitlines()
        if line.strip().startswith("notes")
    )  # fmt: skip
    assert (notes[1], notes[5]) == ("5,000", "+5,000")
    connection.execute(f"DROP TABLE {grown.schema}.notes")
    (tmp_path / "list.json").write_text("[]")
    refused(erpkit("tenants", "inspect", "--since", str(tmp_path / "list.json"), **environ), 2, "is not an inspection")


def test_the_notebook_waits_for_no_lock_and_compares_each_run_with_the_one_before(
    shared_database: Database, connection: Connection, planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERPKIT_DATABASE", shared_database.conninfo)
    monkeypatch.setenv("ERPKIT_MODULES", "erpkit.sample")
    weekly = str(tmp_path / "weekly.json")
    first, second = (tmp_path / "first", tmp_path / "second")
    notebook = open_notebook("inspect_tenants")
    result = run_notebook(notebook, {"since": weekly, "snapshot": weekly}, first)
    assert "There is no earlier inspection" in result.report.read_text()
    tenant = get_tenant(connection, planted.tenants[1])
    with _locked(shared_database, tenant, "sales_orders") as pid:
        result = run_notebook(notebook, {"since": weekly, "snapshot": weekly}, second)
    assert (result.outcome, result.seconds < 15) == ("findings", True)
    assert result.summary is not None
    assert any(f"table sales_orders is locked by process {pid}" in finding for finding in result.findings)
    assert "grew most" in result.report.read_text()
