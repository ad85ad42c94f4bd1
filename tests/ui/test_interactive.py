"""The magics in a real IPython, and the explorer with its widgets' values."""

import html
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

import erpkit
from erpkit.database import Database
from erpkit.erp import Erp
from erpkit.errors import UsageError
from erpkit.modules import Registry
from erpkit.sample.demo import Planted
from erpkit.tenants import find_tenants
from erpkit.ui import Explorer, explore
from erpkit.ui.explorer import as_query
from tests.conftest import plant_copy
from tests.counting import wait_until


@pytest.fixture(scope="module")
def erp(shared_database: Database, registry: Registry) -> Planted:
    return plant_copy(shared_database, registry)


@pytest.fixture
def database(shared_database: Database) -> Database:
    return shared_database


@pytest.fixture
def door(database: Database) -> Iterator[Erp]:
    with erpkit.open(database.conninfo) as door:
        yield door


@pytest.fixture
def shell(database: Database, erp: Planted, monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    monkeypatch.setenv("ERPKIT_DATABASE", database.conninfo)
    running = InteractiveShell()
    running.run_line_magic("load_ext", "erpkit")
    yield running
    running.history_manager.end_session() if running.history_manager else None
    InteractiveShell.clear_instance()


def run(shell: InteractiveShell, cell: str) -> Any:
    """Run a cell; return its value, or raise what it raised."""
    outcome = shell.run_cell(cell, store_history=False)
    outcome.raise_error()
    return outcome.result


def error(shell: InteractiveShell, cell: str) -> str:
    """Run a cell that fails; return what it says."""
    return str(shell.run_cell(cell, store_history=False).error_in_exec)


def test_a_tenant_cell_gives_a_data_frame(shell: InteractiveShell) -> None:
    frame = run(shell, "%%tenant acme\nSELECT count(*) AS products FROM catalog_products")
    assert list(frame.columns) == ["products"]
    assert frame.iloc[0, 0] == 6


def test_a_tenants_cell_gives_all_of_them_and_says_who_was_skipped(
    shell: InteractiveShell, erp: Planted, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(shell, "%%tenants -o found\nSELECT count(*) AS n FROM sales_orders") is None
    found = shell.user_ns["found"]
    assert list(found["tenant"]) == [slug for slug in erp.tenants if slug != erp.suspended]
    told = capsys.readouterr().out
    assert f"{erp.suspended}: suspended, and so skipped" in told
    assert "found: 3 rows of 2 columns" in told


def test_a_limit_holds_and_is_told_when_it_cuts(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(run(shell, "%%tenants acme --limit 2\nSELECT sku FROM catalog_products")) == 2
    assert "acme: only the first 2 rows; --limit reads more" in capsys.readouterr().out
    assert len(run(shell, "%%tenants acme --limit 6\nSELECT sku FROM catalog_products")) == 6
    assert "only the first" not in capsys.readouterr().out
    assert "read at least one row" in error(shell, "%%tenant acme --limit 0\nSELECT 1")


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM sales_orders",
        "COMMIT; DROP SCHEMA tenant_acme CASCADE",
        "RESET ROLE",
        "SET search_path TO tenant_bluebird",
    ],
)
def test_a_cell_that_does_not_read_is_refused(
    shell: InteractiveShell, statement: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "only a query that reads" in error(shell, f"%%tenants\n{statement}")
    assert "Traceback" not in capsys.readouterr().out


def test_a_word_of_pythons_own_is_no_name_for_the_output(shell: InteractiveShell) -> None:
    assert "a Python keyword" in error(shell, "%%tenant acme -o class\nSELECT 1 AS n")
    assert "not a variable name" in error(shell, "%%tenant acme -o 2x\nSELECT 1 AS n")


def test_a_cell_goes_through_the_guard_and_may_end_in_a_comment(shell: InteractiveShell) -> None:
    assert "ts_stat cannot be used here" in error(shell, "%%tenant acme\nSELECT ('select 1'::text).ts_stat")
    assert run(shell, "%%tenant acme\nSELECT 1 AS a; -- done").iloc[0, 0] == 1
    assert "more than one statement" in error(shell, "%%tenants\nSELECT 1; SELECT 2")
    run(shell, "ids = [1, 2]")
    assert "= ANY(%(ids)s)" in error(shell, "%%tenant acme\nSELECT 1 WHERE 1 IN %(ids)s")


def test_an_unknown_tenant_is_told_and_one_that_is_not_active(shell: InteractiveShell, erp: Planted) -> None:
    assert "did you mean acme" in error(shell, "%%tenant acne\nSELECT 1")
    assert "only active tenants can be read" in error(shell, f"%%tenant {erp.suspended}\nSELECT 1")


def test_a_mistake_that_fails_in_every_tenant_is_told_once(shell: InteractiveShell, erp: Planted) -> None:
    told = error(shell, "%%tenants\nSELECT pric FROM catalog_products")
    active = [slug for slug in erp.tenants if slug != erp.suspended]
    assert told == f'{len(active)} tenants: column "pric" does not exist ({", ".join(active)})'


def test_variables_of_the_notebook_are_values_in_a_cell_whatever_they_hold(shell: InteractiveShell) -> None:
    shell.user_ns.update(category="Fittings' OR true --", some=["Fittings"])
    query = "SELECT category FROM catalog_products WHERE category LIKE 'F%' AND category ="
    assert len(run(shell, f"%%tenant acme\n{query} %(category)s")) == 0
    assert set(run(shell, f"%%tenant acme\n{query} ANY (%(some)s)")["category"]) == {"Fittings"}
    assert "there is no variable since" in error(shell, "%%tenant acme\nSELECT %(since)s")
    shell.user_ns["some"] = object()
    assert "do not fit the query" in error(shell, f"%%tenant acme\n{query} ANY (%(some)s)")


def test_cells_go_on_after_the_server_dropped_their_connections(
    shell: InteractiveShell, database: Database, door: Erp
) -> None:
    query = "%%tenants\nSELECT count(*) AS n FROM sales_orders"
    before = run(shell, query)
    explorer = explore(door)
    with database.connection() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert run(shell, query).equals(before)
    explorer.table.value = "sales_customers"
    assert rows(explorer) == 3


def test_an_interrupted_cell_is_cancelled_in_the_server_and_the_next_one_works(
    shell: InteractiveShell, database: Database
) -> None:
    """As JupyterLab's stop button does it: the interrupt reaches the main thread while the query runs."""
    sleeping = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE query LIKE '%generate_series%' AND state = 'active' AND pid <> pg_backend_pid()"
    )

    def interrupt() -> None:
        with database.connection() as connection:
            while connection.execute(sleeping).fetchone() == (0,):
                time.sleep(0.02)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    started = time.monotonic()
    assert "interrupted" in error(
        shell, "%%tenants\nSELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000) b"
    )
    assert time.monotonic() - started < 60  # and not the many minutes that it would take
    watcher.join()
    with database.connection() as connection:  # what was cancelled may take a moment to end
        wait_until(lambda: connection.execute(sleeping).fetchone() == (0,))
    assert run(shell, "%%tenant acme\nSELECT 1 AS one").iloc[0, 0] == 1


@pytest.fixture
def explorer(door: Erp, erp: Planted) -> Explorer:
    return explore(door, "acme", "catalog_products")


def ask(explorer: Explorer, query: str) -> str:
    """Run a query in the explorer; return what stands at its field."""
    explorer.kind.value = "a query"
    explorer.query.value = query
    explorer.run.click()
    return html.unescape(explorer._problem.value)


def rows(explorer: Explorer) -> int:
    assert explorer.frame is not None
    return len(explorer.frame)


def test_the_explorer_reads_one_tenant_or_all_and_a_table_or_a_query(
    explorer: Explorer, erp: Planted, shell: InteractiveShell
) -> None:
    assert erp.suspended not in explorer.tenant.options
    assert (rows(explorer), explorer.state.value) == (6, "6 rows of acme")
    explorer.table.value = "sales_customers"
    explorer.tenant.value = ""
    assert explorer.table.value == "sales_customers"  # what is chosen stays
    assert (rows(explorer), explorer.state.value) == (9, "9 rows of 3 tenants")
    assert ask(explorer, "SELECT count(*) AS n FROM sales_orders") == ""
    assert (rows(explorer), explorer.state.value) == (3, "3 rows of 3 tenants")


@pytest.mark.parametrize("tenant", ["acme", ""])
def test_the_query_that_is_shown_reads_the_same_rows_in_a_cell(
    door: Erp, erp: Planted, shell: InteractiveShell, tenant: str
) -> None:
    explorer = explore(door, "acme", "sales_orders", limit=2)
    explorer.tenant.value = tenant
    cell = as_query("SELECT * FROM sales_orders", tenant, 2)
    assert html.unescape(explorer.cell.value).count(cell) == 1
    assert explorer.frame is not None
    assert run(shell, cell).equals(explorer.frame)


def test_a_tenant_that_a_cell_of_sql_cannot_name_is_asked_in_python(door: Erp, erp: Planted) -> None:
    assert as_query("SELECT 1", "Kunde 04", 5) == "erp.query('SELECT 1', tenants=['Kunde 04'], limit=5)"
    query = "SELECT '%(name)s' AS text"
    found = eval(as_query(query, "acme", 5), {"erp": door})
    assert found.frame["text"].tolist() == ["%(name)s"]


def test_a_search_shows_the_tenants_that_fit_and_chooses_the_only_one(explorer: Explorer, erp: Planted) -> None:
    explorer.tenant.search.value = "BLUE"
    assert [key for _, key in explorer.tenant.list.options] == ["bluebird"]
    assert explorer.tenant.value == "bluebird"
    explorer.tenant.search.value = "acne"
    assert "no tenant fits 'acne': did you mean acme?" in html.unescape(explorer.tenant._problem.value)
    assert explorer.tenant.value == "bluebird"  # until another one is chosen
    explorer.tenant.search.value = ""
    assert "alert" not in explorer.tenant._problem.value
    explorer.table.search.value = "ordrs"
    assert "no table fits 'ordrs'" in html.unescape(explorer.table._problem.value)


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("SELECT pric FROM catalog_products", 'column "pric" does not exist'),
        ("SELECT FROM WHERE", "syntax error"),
        ("SELECT * FROM orders", 'relation "orders" does not exist'),
        ("DELETE FROM catalog_products", "only a query that reads"),
        ("SELECT 1; DELETE FROM catalog_products", "more than one statement"),
        ("SELECT set_config('role', 'postgres', true)", "leave the tenant's role"),
        ("SELECT * FROM tenant_bluebird.sales_orders", "permission denied"),
        ("SELECT nextval('billing_invoices_number_seq')", "nextval cannot be used here"),
        ("", "write a query that reads"),
    ],
)
def test_a_query_that_is_wrong_or_does_harm_is_told_at_its_field_in_one_line(
    explorer: Explorer, query: str, problem: str
) -> None:
    told = ask(explorer, query)
    assert problem in told
    assert "\n" not in told
    assert (explorer.frame, explorer.cell.value) == (None, "")
    assert ask(explorer, "SELECT 1 AS one") == ""
    assert rows(explorer) == 1


def test_a_query_that_takes_too_long_is_stopped(explorer: Explorer) -> None:
    explorer.seconds = 1
    long = "SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000) b"
    assert "took longer than 1 s" in ask(explorer, long)


ODD = """
CREATE TABLE tenant_acme."100% 'odd'" (tenant text, "a""b" jsonb, "Größe" numeric, note text);
INSERT INTO tenant_acme."100% 'odd'" VALUES ('$5 and $x^', '{"k": [1]}', 1234.50, NULL);
INSERT INTO tenant_acme."100% 'odd'" VALUES (repeat('long ', 200), NULL, NULL, '<b>')"""


def test_the_explorer_reads_tables_with_odd_names_columns_and_values(
    database: Database, door: Erp, erp: Planted
) -> None:
    with database.transaction() as connection:
        connection.execute(ODD.encode())
        for tenant in find_tenants(connection, ["acme"], None):
            connection.execute(f'GRANT SELECT ON tenant_acme."100% \'odd\'" TO "{tenant.reader}"'.encode())
    explorer = explore(door, "acme", "100% 'odd'")
    assert explorer.frame is not None
    assert list(explorer.frame.columns) == ["tenant", 'a"b', "Größe", "note"]
    page = explorer._repr_mimebundle_()["text/html"]
    for text in ("{&quot;k&quot;: [1]}", "1234.50", "NULL", "&lt;b&gt;"):
        assert text in page


def test_a_tenant_or_table_to_open_on_that_is_not_there_is_told(door: Erp, erp: Planted) -> None:
    for tenant, table, problem in (
        ("acne", "", "did you mean acme"),
        (erp.suspended, "", "only active tenants"),
        ("acme", "sales_ordrs", "acme has no table sales_ordrs: did you mean sales_orders"),
    ):
        with pytest.raises(UsageError, match=problem):
            explore(door, tenant, table)


def test_without_tenants_the_explorer_says_so_at_their_field(door: Erp, erp: Planted) -> None:
    explorer = Explorer(door, [])
    assert "there are no active tenants to read: erpkit tenants create NAME" in explorer.tenant._problem.value
    assert "there are no active tenants" in explorer._repr_mimebundle_()["text/html"]


def test_a_tenant_that_may_not_be_read_is_named_and_the_others_are_shown(
    database: Database, door: Erp, erp: Planted
) -> None:
    unread = replace(door.one("bluebird"), schema="tenant_nowhere")
    explorer = Explorer(door, [door.one("acme"), door.one(erp.tenants[2]), unread], "bluebird")
    assert "alert" in explorer.tenant._problem.value
    assert explorer.frame is None
    explorer.tenant.value = ""
    explorer.table.value = "sales_orders"
    assert "bluebird: " in explorer.tenant._problem.value, explorer.table._problem.value
    assert explorer.frame is not None, explorer.table._problem.value + explorer.tenant._problem.value
    assert set(explorer.frame["tenant"]) == {"acme", erp.tenants[2]}


def test_the_explorer_opens_on_the_first_table_of_the_first_tenant(door: Erp, erp: Planted) -> None:
    explorer = explore(door)
    assert (explorer.tenant.value, explorer.table.value) == ("acme", explorer.table.options[0])
    assert explorer.frame is not None


def test_without_a_browser_the_explorer_shows_its_table(explorer: Explorer) -> None:
    bundle = explorer._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"}  # a widget would be debris in the output of a run
    assert "acme, catalog_products" in bundle["text/html"]
    assert "Fittings" in bundle["text/html"]
