"""The magics in a real IPython, and the explorer with its widgets' values."""

from collections.abc import Iterator

import pytest
from IPython.core.interactiveshell import InteractiveShell

from erpkit.database import Database
from erpkit.sample.demo import Planted
from erpkit.ui import explore


@pytest.fixture
def shell(database: Database, erp: Planted, monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    monkeypatch.setenv("ERPKIT_DATABASE", database.conninfo)
    running = InteractiveShell()
    running.run_line_magic("load_ext", "erpkit")
    yield running
    running.history_manager.end_session() if running.history_manager else None
    InteractiveShell.clear_instance()


def run(shell: InteractiveShell, cell: str) -> object:
    """Run a cell; return its value, or raise what it raised."""
    outcome = shell.run_cell(cell, store_history=False)
    outcome.raise_error()
    return outcome.result


def test_a_tenant_cell_gives_a_data_frame(shell: InteractiveShell) -> None:
    frame = run(shell, "%%tenant acme\nSELECT count(*) AS products FROM catalog_products")
    assert list(frame.columns) == ["products"]  # type: ignore[attr-defined]
    assert frame.iloc[0, 0] == 6  # type: ignore[attr-defined]


def test_a_tenants_cell_gives_all_of_them_and_says_who_was_skipped(
    shell: InteractiveShell, erp: Planted, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(shell, "%%tenants -o found\nSELECT count(*) AS n FROM sales_orders") is None
    found = shell.user_ns["found"]
    assert list(found["tenant"]) == [slug for slug in erp.tenants if slug != erp.suspended]
    assert f"{erp.suspended}: skipped, suspended" in capsys.readouterr().out


def test_a_limit_holds(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    frame = run(shell, "%%tenants acme --limit 2\nSELECT sku FROM catalog_products")
    assert len(frame) == 2  # type: ignore[arg-type]
    assert "acme: more rows than the limit" in capsys.readouterr().out


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
    outcome = shell.run_cell(f"%%tenants\n{statement}", store_history=False)
    assert "only a query that reads" in str(outcome.error_in_exec)
    assert "Traceback" not in capsys.readouterr().out


def test_an_unknown_tenant_is_told(shell: InteractiveShell) -> None:
    outcome = shell.run_cell("%%tenant acne\nSELECT 1", store_history=False)
    assert "did you mean acme" in str(outcome.error_in_exec)


def test_the_explorer_shows_filters_and_counts(database: Database, erp: Planted) -> None:
    explorer = explore(database)
    assert erp.suspended not in explorer.tenant.options
    explorer.table.value = "catalog_products"
    assert explorer.frame is not None
    assert len(explorer.frame) == 6
    explorer.column.value = "category"
    explorer.text.value = "fit"
    assert set(explorer.frame["category"]) == {"Fittings"}
    explorer.chart.value = "category"
    assert "<svg" in explorer.view.value
    explorer.text.value = "100%"
    assert len(explorer.frame) == 0
    explorer.text.value = ""
    explorer.tenant.value = erp.tenants[1]
    assert explorer.table.value == "catalog_products"
