"""Restoring a tenant from its export: beside, compared, swapped, and the damaged one kept."""

import zipfile
from pathlib import Path

import pytest

from erpkit.database import Database
from erpkit.errors import PlanChangedError, UsageError
from erpkit.events import dispatch
from erpkit.migrations import Migration
from erpkit.modules import Registry
from erpkit.sample.demo import Planted, place_orders
from erpkit.tenants import (
    export_tenant,
    find_drift,
    get_tenant,
    import_beside,
    inspect_tenants,
    list_tenants,
    plan_restore,
    rename_tenant,
    set_status,
    swap_in,
)
from erpkit.tenants.health import count_rows
from tests.conftest import SMALL, plant_copy


@pytest.fixture(scope="module")
def planted(shared_database: Database, registry: Registry) -> Planted:
    return plant_copy(shared_database, registry)


def _export(database: Database, slug: str, folder: Path) -> Path:
    with database.connection() as connection:
        export_tenant(database, get_tenant(connection, slug), folder / f"{slug}.erpkit")
    return folder / f"{slug}.erpkit"


def _rows(database: Database, slug: str) -> dict[str, int]:
    with database.connection() as connection:
        return count_rows(connection, get_tenant(connection, slug).schema)


def _suspend_and_plan(database: Database, slug: str, file: Path) -> str:
    with database.connection() as connection:
        set_status(connection, slug, "suspended")
        return plan_restore(connection, file).id


def test_a_damaged_tenant_gets_its_rows_back_and_renaming_back_undoes_it(
    planted: Planted, shared_database: Database, registry: Registry, migrations: tuple[Migration, ...], tmp_path: Path
) -> None:
    database, slug = shared_database, planted.dead_letters
    with database.connection() as connection:
        tenant = get_tenant(connection, slug)
    place_orders(database, registry, tenant, 2, size=SMALL)
    file = _export(database, slug, tmp_path)
    exported = _rows(database, slug)
    dispatch(database, tenant, registry)
    place_orders(database, registry, tenant, 1, seed=2, size=SMALL)
    with database.connection() as connection:
        connection.execute(f"DROP TABLE {tenant.schema}.billing_ledger; DELETE FROM {tenant.schema}.sales_order_lines")
    damaged = _rows(database, slug)
    others = {one: _rows(database, one) for one in planted.tenants if one != slug}

    with database.connection() as connection:
        active = plan_restore(connection, file)
    with pytest.raises(UsageError, match="is active: suspend it first"):
        import_beside(database, active, active.id, migrations)
    confirm = _suspend_and_plan(database, slug, file)
    with database.connection() as connection:
        plan = plan_restore(connection, file)
    assert plan.changes["billing_ledger"] == (None, exported["billing_ledger"])
    with pytest.raises(PlanChangedError, match="nothing was changed"):
        import_beside(database, plan, "restore-0000000000", migrations)

    beside = import_beside(database, plan, confirm, migrations)
    changes = {(one.kind, one.name): one.events for one in beside.log_changes}
    assert (beside.problems, beside.drift, beside.tenant.status) == ((), (), "suspended")
    assert changes["lost", "sales.OrderPlaced"] == 1
    assert changes["again", "sales.on_order_placed"] == 2
    restored = swap_in(database, plan, confirm, beside)
    assert (restored.tenant.status, restored.tenant.schema, restored.mentions) == ("suspended", tenant.schema, ())
    assert (restored.damaged.slug, restored.damaged.status) == (f"{slug}_damaged", "archived")
    assert _rows(database, slug) == exported
    assert _rows(database, f"{slug}_damaged") == damaged
    assert {one: _rows(database, one) for one in others} == others
    with database.connection() as connection:
        active_again = set_status(connection, slug, "active")
        (inspection,) = inspect_tenants(connection, [active_again], migrations)
        assert (inspection.drift, inspection.pending) == ([], 0)
    assert dispatch(database, active_again, registry).handled > 0

    rename_tenant(database, slug, f"{slug}_restored")
    rename_tenant(database, f"{slug}_damaged", slug)
    with database.connection() as connection:
        set_status(connection, slug, "active")
        words = [str(one) for one in find_drift(connection, [get_tenant(connection, slug)])[slug]]
    assert "table billing_ledger is missing" in words
    assert not [one for one in words if "grant" in one]
    assert _rows(database, slug) == damaged


def test_a_tenant_whose_schema_is_gone_comes_back_at_the_newest_version(
    planted: Planted, shared_database: Database, migrations: tuple[Migration, ...], tmp_path: Path
) -> None:
    database, slug = shared_database, planted.behind  # its export is older than the last release
    file = _export(database, slug, tmp_path)
    exported = _rows(database, slug)
    with database.connection() as connection:
        connection.execute(f"DROP SCHEMA tenant_{slug} CASCADE")
    confirm = _suspend_and_plan(database, slug, file)
    with database.connection() as connection:
        plan = plan_restore(connection, file)
    beside = import_beside(database, plan, confirm, migrations)
    with database.connection() as connection:  # as if the run had stopped here, and began again
        again = plan_restore(connection, file)
    assert (again.is_imported, again.id) == (True, confirm)
    beside = import_beside(database, again, confirm, migrations)
    swap_in(database, again, confirm, beside)
    assert _rows(database, slug) == exported | {"goose_db_version_billing": exported["goose_db_version_billing"] + 1}
    assert _rows(database, f"{slug}_damaged") == {}


def test_nothing_is_swapped_when_the_damaged_tenant_was_written_to_meanwhile(
    planted: Planted, shared_database: Database, registry: Registry, migrations: tuple[Migration, ...], tmp_path: Path
) -> None:
    database, slug = shared_database, planted.drifted
    file = _export(database, slug, tmp_path)
    confirm = _suspend_and_plan(database, slug, file)
    with database.connection() as connection:
        plan = plan_restore(connection, file)
        tenant = get_tenant(connection, slug)
    beside = import_beside(database, plan, confirm, migrations)
    assert {str(one) for one in beside.drift} >= {"column sales_orders.hotfix_note is extra"}
    with database.tenant_transaction(tenant, write=True) as connection:  # by a program that does not ask for its status
        connection.execute("INSERT INTO catalog_categories VALUES ('late')")
    rows = _rows(database, slug)
    with pytest.raises(PlanChangedError):
        swap_in(database, plan, confirm, beside)
    assert _rows(database, slug) == rows
    with database.connection() as connection:
        assert f"{slug}_damaged" not in {one.slug for one in list_tenants(connection)}
        connection.execute(f"DELETE FROM tenant_{plan.beside}.catalog_price_list")
        second = plan_restore(connection, file)
    short = import_beside(database, second, second.id, migrations)
    with pytest.raises(UsageError, match="catalog_price_list has 0 rows, and 6 were exported; nothing was changed"):
        swap_in(database, second, second.id, short)


def test_a_file_that_is_damaged_or_of_nobody_is_told_before_anything_starts(
    planted: Planted, shared_database: Database, migrations: tuple[Migration, ...], tmp_path: Path
) -> None:
    file = _export(shared_database, planted.suspended, tmp_path)
    with shared_database.connection() as connection:
        with pytest.raises(UsageError, match="is a folder: name the export file"):
            plan_restore(connection, tmp_path)
        with pytest.raises(UsageError, match="there is no tenant 'nobody'"):
            plan_restore(connection, file, "nobody")
        with zipfile.ZipFile(file) as whole, zipfile.ZipFile(tmp_path / "bad.erpkit", "w") as bad:
            bad.writestr("manifest.json", whole.read("manifest.json"))
            bad.writestr("dump", whole.read("dump")[:-1])
        with pytest.raises(UsageError, match="the dump was changed after the export"):
            plan_restore(connection, tmp_path / "bad.erpkit")
        connection.execute("DELETE FROM public.tenants WHERE slug = %s", [planted.suspended])
        with pytest.raises(
            UsageError, match=f"there is no tenant {planted.suspended}: import it by erpkit tenants import"
        ):
            plan_restore(connection, file)
