"""A fleet of real tenants with modules of golang-migrate's and of goose's: the command line, new tenants, drift, generated queries."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from erpkit.config import Settings
from erpkit.database import TEMPLATE, Database
from erpkit.migrations import plan_up, read_applied, read_migrations, run_plan
from erpkit.modules import Module, load_modules
from erpkit.queries.generate import generate
from erpkit.tenants import create_tenant, ensure_template, find_drift
from tests.command import erpkit, refused, rows_of
from tests.migrations.test_golang import BINS, stock

Run = Callable[..., "CompletedProcess[str]"]

MANIFEST = """
[[module]]
name = "stock"
migrations = "stock"

[[module]]
name = "orders"
migrations = "orders"
depends = ["stock"]

[[module]]
name = "shop"
migrations = "shop"
version_table = "shop_migrations"
multi_statement = true
"""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Write an ERP in another language: two modules for golang-migrate, one for goose."""
    stock(tmp_path / "stock")
    (tmp_path / "orders").mkdir()
    (tmp_path / "orders" / "00001_orders.sql").write_text("-- +goose Up\nCREATE TABLE orders (id int);\n")
    stock(
        tmp_path / "shop",
        {"1_shop.up.sql": "CREATE TABLE shop (id int); CREATE INDEX CONCURRENTLY shop_id ON shop (id);"},
    )
    (tmp_path / "modules.toml").write_text(MANIFEST)
    return tmp_path / "modules.toml"


@pytest.fixture
def run(database: Database, manifest: Path) -> Run:
    environ = {"ERPKIT_MODULES": str(manifest), "ERPKIT_DATABASE": database.conninfo}
    return lambda *arguments, **more: erpkit(*arguments, **environ, **more)


def test_the_command_line_plans_runs_forces_and_tells_it_like_gooses(
    database: Database, run: Run, manifest: Path
) -> None:
    for slug in ("acme", "bluebird"):
        create_tenant(database, [], slug)
    planned = json.loads(run("migrate", "plan", "--json").stdout)
    steps = {step["migration"] for step in planned["steps"] if step["tenant"] == "acme"}
    assert steps >= {
        "stock/000001_bins",
        "orders/00001_orders",
        "shop/1_shop",
    }
    done = run("migrate", "up", "--confirm", planned["id"])
    assert done.returncode == 0, done.stdout
    status = json.loads(run("migrate", "status", "--json").stdout)
    assert {(s["module"], s["version"], s["state"]) for s in status if s["tenant"] != "_template"} >= {
        ("stock", 3, "current"), ("orders", 1, "current"), ("shop", 1, "current"),
    }  # fmt: skip

    (manifest.parent / "stock" / "000004_bad.up.sql").write_text("SELECT 1/0;")
    planned = json.loads(run("migrate", "plan", "--tenant", "acme", "--json").stdout)
    failed = run("migrate", "up", "--tenant", "acme", "--confirm", planned["id"])
    assert failed.returncode == 1
    assert "division by zero" in failed.stdout
    held = run("migrate", "plan", "--tenant", "acme")  # `_template` came first, and is dirty
    assert held.returncode == 3
    assert "erpkit migrate force VERSION --module stock --tenant _template" in held.stderr

    wanted = run("migrate", "force", "3", "--module", "stock", "--tenant", "_template")
    assert rows_of(wanted) == [["_template", "version 4 (dirty)", "version 3"]]
    forced = run("migrate", "force", "3", "--module", "stock", "--tenant", "_template", "--confirm", _id(wanted.stderr))
    assert (forced.returncode, "stock is version 3 in 1 tenant" in forced.stderr) == (0, True)
    assert "forced from version 4 (dirty): nothing was run" in run("migrate", "history").stdout
    nothing = run("migrate", "force", "-1", "--module", "stock", "--tenant", "acme")
    assert nothing.stdout == "acme\tversion 3\tno version\n"
    refused(run("migrate", "force", "3", "--module", "orders", "--all"), 2, "these have: shop, stock")
    refused(run("migrate", "force", "3", "--module", "stock"), 2, "--all")

    taken = run("migrate", "down", "--all", "--module", "stock", "--to", "1")
    again = run("migrate", "down", "--all", "--module", "stock", "--to", "1", "--confirm", _id(taken.stderr))
    assert again.returncode == 0, again.stdout
    with database.connection() as connection:
        assert connection.execute("TABLE tenant_acme.schema_migrations").fetchall() == [(1, False)]


def _id(text: str) -> str:
    return next(line.split(":")[0].removeprefix("plan ") for line in text.splitlines() if line.startswith("plan "))


def test_files_can_be_shown_linted_and_begun(run: Run, manifest: Path) -> None:
    file = manifest.parent / "stock" / "000001_bins.up.sql"
    assert run("migrate", "show", str(file)).stdout.strip() == BINS[file.name].strip()
    assert run("migrate", "show", str(file.with_name("000001_bins.down.sql"))).stdout.strip() == "DROP TABLE bins;"
    path = run("migrate", "new", "due dates", "--module", "stock").stdout.strip()
    assert path.endswith("000004_due_dates.up.sql")
    assert "6 migrations" in run("migrate", "lint").stderr
    assert "stock" in run("modules", "list").stdout


def test_two_modules_with_the_default_table_are_refused_at_start_up(run: Run, manifest: Path) -> None:
    manifest.write_text(MANIFEST.replace('version_table = "shop_migrations"\n', ""))
    for command in ("status", "plan"):
        refused(run("migrate", command), 1, "modules shop and stock share the version table schema_migrations")


def test_a_new_tenant_gets_them_or_is_not_there(database: Database, manifest: Path) -> None:
    modules = load_modules(Settings(modules=str(manifest))).modules
    create_tenant(database, read_migrations(modules), "acme")
    with database.connection() as connection:
        assert connection.execute("TABLE tenant_acme.schema_migrations").fetchall() == [(3, False)]
        assert connection.execute("TABLE tenant_acme.shop_migrations").fetchall() == [(1, False)]
    (manifest.parent / "shop" / "2_bad.up.sql").write_text("SELECT 1/0;")
    with pytest.raises(Exception, match="tenant bluebird: shop/2_bad.up.sql stopped half way: .*division by zero"):
        create_tenant(database, read_migrations(modules), "bluebird")
    with database.connection() as connection:
        assert connection.execute("SELECT to_regnamespace('tenant_bluebird')").fetchone() == (None,)


def test_tenants_of_either_tool_do_not_drift_and_its_table_is_no_data(
    database: Database, run: Run, manifest: Path
) -> None:
    migrations = read_migrations(load_modules(Settings(modules=str(manifest))).modules)
    tenant = create_tenant(database, migrations, "acme")
    with database.connection() as connection:
        ensure_template(connection)
        plan = plan_up([TEMPLATE], migrations, read_applied(connection, [TEMPLATE], migrations))
        assert run_plan(database, plan, plan.id).is_complete
        assert find_drift(connection, [tenant]) == {"acme": []}
    inspected = json.loads(run("tenants", "inspect", "--json").stdout)["tenants"][0]
    assert (inspected["versions"]["stock"], inspected["pending"]) == (3, 0)
    assert "schema_migrations" not in inspected["rows"]


def test_queries_are_generated_from_them_in_the_order_of_their_versions(tmp_path: Path) -> None:
    files = {f"{n}_step.up.sql": f"ALTER TABLE bin RENAME COLUMN c{n - 1} TO c{n};" for n in range(2, 12)}
    files |= {
        "1_bin.up.sql": "CREATE TABLE bin (id int NOT NULL, c1 text NOT NULL);",
        "1_bin.down.sql": "DROP TABLE bin;",
    }
    module = stock(tmp_path / "migrations", files)
    (tmp_path / "queries").mkdir()
    (tmp_path / "queries" / "bins.sql").write_text("-- name: ListBins :many\nSELECT id, c11 FROM bin;\n")
    made = generate([Module("stock", migrations=module.migrations, queries=tmp_path / "queries")])
    assert [file.queries for file in made] == [1]
    assert "c11: str" in (tmp_path / "sql.py").read_text()
