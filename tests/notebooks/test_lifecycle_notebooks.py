"""The notebooks of a tenant's life, run for real: provisioned, exported and dropped, after a dry run each."""

from pathlib import Path
from typing import Any

import pytest

from erpkit.database import Database
from erpkit.modules import Registry
from erpkit.runs import RunResult, open_notebook, run_notebook
from erpkit.sample.demo import Planted
from erpkit.tenants import get_tenant, import_tenant, list_tenants, set_status, verify_export
from erpkit.tenants.health import count_rows
from tests.conftest import plant_copy


@pytest.fixture(scope="module")
def planted(shared_database: Database, registry: Registry) -> Planted:
    return plant_copy(shared_database, registry)


@pytest.fixture(autouse=True)
def environment(shared_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERPKIT_DATABASE", shared_database.conninfo)
    monkeypatch.setenv("ERPKIT_MODULES", "erpkit.sample")


def _run(name: str, output: Path, /, **parameters: Any) -> RunResult:
    return run_notebook(open_notebook(name), parameters, output)


def _facts(result: RunResult) -> dict[str, Any]:
    assert result.summary is not None, result.error
    return dict(result.summary.facts)


def _slugs(database: Database) -> set[str]:
    with database.connection() as connection:
        return {tenant.slug for tenant in list_tenants(connection)}


def test_provision_tenant_is_a_dry_run_first_and_then_makes_the_tenant(
    planted: Planted, shared_database: Database, tmp_path: Path
) -> None:
    dry = _facts(_run("provision_tenant", tmp_path, slug="newcomer"))
    assert (dry["created"], "newcomer" in _slugs(shared_database)) == (0, False)
    stale = _run("provision_tenant", tmp_path, slug="newcomer", dry_run=False, confirm="provision-0000000000")
    assert "is not the id of the present plan" in str(stale.error)
    assert "newcomer" not in _slugs(shared_database)
    done = _run("provision_tenant", tmp_path, slug="newcomer", dry_run=False, confirm=dry["plan"])
    assert (done.outcome, _facts(done)["created"], _facts(done)["drift"]) == ("ok", 1, 0)
    assert "newcomer" in _slugs(shared_database)
    again = _run("provision_tenant", tmp_path, slug="newcomer")
    assert "tenant newcomer or schema tenant_newcomer already exists" in str(again.error)


def test_offboard_tenant_refuses_an_active_tenant(planted: Planted, shared_database: Database, tmp_path: Path) -> None:
    result = _run("offboard_tenant", tmp_path / "runs", tenant="acme", folder=str(tmp_path))
    assert (result.outcome, "tenant acme is active: suspend or archive it first" in str(result.error)) == (
        "failed",
        True,
    )
    assert "acme" in _slugs(shared_database)


def test_offboard_tenant_exports_verifies_and_drops_what_was_confirmed(
    planted: Planted, shared_database: Database, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"tenant": planted.suspended, "folder": str(tmp_path)}
    dry = _facts(_run("offboard_tenant", tmp_path / "runs", **given))
    assert (dry["exported"], dry["dropped"], list(tmp_path.glob("*.erpkit"))) == (0, 0, [])
    with shared_database.connection() as connection:
        rows = count_rows(connection, get_tenant(connection, planted.suspended).schema)
        set_status(connection, planted.suspended, "archived")
    stale = _run("offboard_tenant", tmp_path / "runs", **given, dry_run=False, confirm="drop-0000000000")
    assert "is not the id of the present plan" in str(stale.error)
    assert planted.suspended in _slugs(shared_database)
    done = _run("offboard_tenant", tmp_path / "runs", **given, dry_run=False, confirm=dry["plan"])
    assert (done.outcome, _facts(done)["exported"]) == ("ok", dry["rows"])
    assert planted.suspended not in _slugs(shared_database)
    (file,) = tmp_path.glob("*.erpkit")
    assert verify_export(file).rows == rows
    assert import_tenant(shared_database, file).tenant.slug == planted.suspended


def test_offboard_tenant_drops_nothing_when_the_export_cannot_be_written(
    planted: Planted, shared_database: Database, tmp_path: Path
) -> None:
    with shared_database.connection() as connection:
        set_status(connection, planted.drifted, "suspended")
    given: dict[str, Any] = {"tenant": planted.drifted, "folder": str(tmp_path / "missing")}
    dry = _facts(_run("offboard_tenant", tmp_path / "runs", **given))
    done = _run("offboard_tenant", tmp_path / "runs", **given, dry_run=False, confirm=dry["plan"])
    assert (done.outcome, "cannot be written" in str(done.error)) == ("failed", True)
    assert planted.drifted in _slugs(shared_database)
