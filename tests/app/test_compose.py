"""The application put together on a database: what it does to it, and what it leaves alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from erpkit.app import compose
from erpkit.config import Settings
from erpkit.database import Database
from erpkit.errors import ErpkitError, MigrationError, UsageError
from erpkit.migrations import Migration
from erpkit.sample.catalog.messages import AddProduct
from erpkit.tenants import create_tenant, ensure_template

SAMPLE = "erpkit.sample"


def products(database: Database, slug: str) -> int:
    with database.connection() as connection:
        found = connection.execute(f"SELECT count(*) FROM tenant_{slug}.catalog_price_list").fetchone()
    assert found is not None
    return int(found[0])


def test_composing_changes_nothing_unless_asked(database: Database, migrations: Sequence[Migration]) -> None:
    settings = Settings(database=database.conninfo, modules=SAMPLE)
    with compose(settings, migrate=True) as application:  # an empty database: there is nobody to serve yet
        assert application.behind == ()
    with database.connection() as connection:
        assert connection.execute("SELECT to_regclass('public.tenants')").fetchone() == (None,)
        ensure_template(connection)
    acme, bluebird = (create_tenant(database, tuple(migrations[:-1]), slug) for slug in ("acme", "bluebird"))
    with compose(settings) as application:
        assert application.behind == ("_template", "acme", "bluebird")
        assert set(application.tools) == {"sales_list_orders", "sales_place_order", "inventory_stock_levels"}
        assert set(application.routes) == {"sales", "inventory"}

    with database.connection() as connection:
        connection.execute("ALTER TABLE tenant_bluebird.billing_invoices ADD COLUMN due_on date")
    with pytest.raises(MigrationError, match="nothing is running: bluebird: .*due_on"), compose(settings, migrate=True):
        pytest.fail("it started")
    with database.connection() as connection:
        connection.execute("ALTER TABLE tenant_bluebird.billing_invoices DROP COLUMN due_on")

    reports: list[object] = []
    with compose(settings, migrate=True, dispatch=True, on_report=reports.append) as application:
        assert application.behind == ()
        assert products(database, "acme") == 0
        application.commands.send(acme, AddProduct("A-1", "Bolt", "Fittings", Decimal(1)))
        deadline = time.monotonic() + 30
        while not products(database, "acme") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert products(database, "acme") == 1
    assert reports
    assert products(database, bluebird.slug) == 0


MODULES = """
[[module]]
name = "sales"
migrations = "sales/migrations"
queries = "sales/queries"
publishes = ["OrderPlaced"]
tables = ["orders"]

[[module]]
name = "billing"
depends = ["sales"]
migrations = "billing"
subscribes = ["sales.OrderPlaced"]
"""
FILES = {
    "modules.toml": MODULES,
    "sales/migrations/00001_orders.sql": "-- +goose Up\nCREATE TABLE orders (id bigint PRIMARY KEY, total numeric NOT NULL);\n"
    "-- +goose Down\nDROP TABLE orders;\n",
    "billing/00001_invoices.sql": "-- +goose Up\nCREATE TABLE billing_invoices (id bigint REFERENCES orders);\n"
    "-- +goose Down\nDROP TABLE billing_invoices;\n",
    "sales/queries/orders.sql": "-- name: GetOrder :one\nSELECT id, total FROM orders WHERE id = $1;\n",
}


@pytest.fixture
def foreign(database: Database, tmp_path: Path) -> Callable[..., Result]:
    """The command line on an ERP in another language."""
    from erpkit.cli import erpkit

    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    environ = {"ERPKIT_DATABASE": database.conninfo, "ERPKIT_MODULES": str(tmp_path / "modules.toml")}

    def run(*arguments: str) -> Result:
        return CliRunner(env=environ).invoke(erpkit, arguments, standalone_mode=False)

    return run


def test_an_erp_in_another_language_is_operated_by_its_modules_toml(
    foreign: Callable[..., Result], database: Database, tmp_path: Path
) -> None:
    assert foreign("modules", "list", "-o", "name").output.split() == ["sales", "billing"]
    assert "created acme" in foreign("tenants", "create", "acme").output
    (tmp_path / "billing" / "00002_due.sql").write_text(
        "-- +goose Up\nALTER TABLE billing_invoices ADD COLUMN due_on date;\n"
    )
    assert foreign("migrate", "status").return_value == 3
    shown = foreign("migrate", "up").output
    assert foreign("migrate", "up", "--confirm", shown.split("--confirm ")[1].strip()).return_value == 0
    status = foreign("migrate", "status")
    assert status.return_value == 0
    with database.connection() as connection:
        versions = connection.execute("SELECT max(version_id) FROM tenant_acme.goose_db_version_billing").fetchone()
    assert versions == (2,)
    assert foreign("tenants", "drift").return_value == 0
    assert "1 query in 1 tenant: 0 broken" in foreign("queries", "check").output
    with database.connection() as connection:
        connection.execute("ALTER TABLE tenant_acme.orders RENAME total TO amount")
    broken = foreign("queries", "check", "-o", "table")
    assert (broken.return_value, "! acme: sales.GetOrder: column" in broken.output) == (3, True)
    assert foreign("tenants", "drift").return_value == 3
    assert foreign("events", "lag").return_value == 3  # its handlers run elsewhere: nothing was looked at


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("queries", "generate"), "no Python is generated for it; `erpkit queries check` checks its SQL"),
        (("events", "dispatch", "--once"), "their handlers are written in another language and do not run here"),
        (("events", "replay"), "do not run here"),
        (("serve",), "do not run here"),
        (("mcp",), "do not run here"),
    ],
)
def test_what_needs_code_in_python_says_so_before_it_starts(
    foreign: Callable[..., Result], arguments: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)  # a test's process keeps its own
    failed = foreign(*arguments).exception
    assert isinstance(failed, UsageError | ErpkitError | click.ClickException), failed
    assert said in str(failed)
