"""The scratch copy of the sample ERP: planted once, copied, with roles of its own, and gone after it."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

import erpkit
from erpkit.config import Settings
from erpkit.database import Database, Tenant
from erpkit.embedded import EmbeddedServer
from erpkit.erp import Rehearsal
from erpkit.errors import RunError
from erpkit.runs.sample import drop_database
from erpkit.tenants import create_tenant, find_drift, inspect_tenants, list_tenants


@pytest.fixture
def admin(server: EmbeddedServer) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        yield connection


def _names(admin: psycopg.Connection[tuple[object, ...]], prefix: str) -> list[object]:
    rows = admin.execute(
        "SELECT datname FROM pg_database WHERE starts_with(datname, %s) "
        "UNION ALL SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)", [prefix, prefix],
    )  # fmt: skip
    return [name for (name,) in rows]


def _tenants(rehearsal: Rehearsal) -> list[Tenant]:
    with rehearsal.database.connection() as connection:
        return list_tenants(connection)


def test_two_rehearsals_do_not_touch_each_other_and_leave_nothing_behind(
    admin: psycopg.Connection[tuple[object, ...]],
) -> None:
    settings = Settings.from_env()
    first, second = Rehearsal(settings), Rehearsal(settings)
    roles = {tenant.role for one in (first, second) for tenant in _tenants(one)}
    assert (len(roles), first.planted) == (8, second.planted)
    assert [len(one.erp.tenants) for one in (first, second)] == [4, 4]
    assert first.erp.target.startswith("rehearsal on")
    assert first.erp.target == first.database.target
    assert len(first.erp.modules) == len(first.registry.modules)
    tenant = next(t for t in _tenants(first) if t.slug == first.planted.behind)
    with first.database.connection() as connection:
        connection.execute(f"TRUNCATE {tenant.schema}.sales_order_lines")
        drift = find_drift(connection, _tenants(first))
    assert [slug for slug, found in drift.items() if found] == sorted([first.planted.drifted, first.planted.behind])
    with second.database.tenant_transaction(_tenants(second)[0], write=True) as connection:
        assert connection.execute("SELECT count(*) > 0 FROM sales_order_lines").fetchone() == (True,)
        connection.execute("UPDATE sales_orders SET currency = currency")
        with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
            connection.execute(f"SELECT FROM {tenant.schema}.sales_orders")
    with second.database.connection() as connection:
        inspections = inspect_tenants(connection, _tenants(second), ())
        assert sum(len(one.dead_letters) for one in inspections) == 3
    folder = first.folder
    for one in (first, second):
        one.close()
        one.close()
    assert (_names(admin, "erpkit_rehearsal_"), folder.exists()) == ([], False)


def test_a_planted_database_that_is_not_whole_is_planted_anew(
    admin: psycopg.Connection[tuple[object, ...]], server: EmbeddedServer
) -> None:
    Rehearsal(Settings.from_env()).close()
    (source,) = [name for name in _names(admin, "erpkit_sample_") if "." not in str(name)]
    drop_database(admin, str(source))
    admin.execute(f"CREATE DATABASE {source}")
    with Database(server.url(str(source)), "half") as half:  # as of a process that was killed while it planted
        create_tenant(half, (), "acme")
    rehearsal = Rehearsal(Settings.from_env())
    try:
        assert len(_tenants(rehearsal)) == 4
        rehearsal.worker.kill()
        with pytest.raises(RunError, match="has ended"):
            rehearsal.worker.wait(lambda: False)
    finally:
        rehearsal.close()


def test_a_rehearsal_of_other_modules_is_empty_and_its_variables_point_to_it(
    admin: psycopg.Connection[tuple[object, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "alone-1.dist-info").mkdir()
    (tmp_path / "alone-1.dist-info" / "METADATA").write_text("Name: alone\nVersion: 1\n")
    (tmp_path / "alone-1.dist-info" / "entry_points.txt").write_text("[alone.modules]\nalone = alone:module\n")
    (tmp_path / "alone.py").write_text("from erpkit import Module\nmodule = Module('alone')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    rehearsal = Rehearsal(modules="alone.modules")
    with rehearsal.database.connection() as connection:
        name = connection.info.dbname
    assert ([module.name for module in rehearsal.erp.modules], list(rehearsal.erp.tenants)) == (["alone"], [])
    monkeypatch.setenv("ERPKIT_TENANTS_QUERY", "SELECT 'other' AS slug, 'other' AS schema_name")
    for variable, value in rehearsal.environ.items():
        monkeypatch.setenv(variable, value)
    with erpkit.open() as erp:
        made = erp.tenants.create("acme")
        made.apply(made.id)
    assert list(rehearsal.erp.tenants) == ["acme"]
    rehearsal.close()
    assert _names(admin, name) == []
