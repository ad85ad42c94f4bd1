"""The runbooks in earnest, as an operator runs them: `erpkit run`, read, and once more with the plan's id."""

import json
import os
from pathlib import Path
from typing import Any

import nbformat
import pytest

from erpkit.cli.run import command
from erpkit.database import Database, Tenant
from erpkit.erp.rehearsal import WorkerProcess
from erpkit.modules import Registry
from erpkit.runs import read_summary
from erpkit.sample.demo import Planted, place_orders
from erpkit.tenants import export_tenant, find_drift, get_tenant, set_status
from erpkit.tenants.health import count_rows
from tests.conftest import SMALL, plant_copy

MODULES = ("catalog", "sales", "inventory", "billing")


@pytest.fixture(scope="module")
def planted(shared_database: Database, registry: Registry) -> Planted:
    return plant_copy(shared_database, registry)


@pytest.fixture(autouse=True)
def environment(shared_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERPKIT_DATABASE", shared_database.conninfo)
    monkeypatch.setenv("ERPKIT_MODULES", "erpkit.sample")


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a runbook in earnest by the command line; return exit code, the facts and findings of its summary."""

    def run_it(name: str, **parameters: str) -> tuple[int, dict[str, Any], list[str]]:
        given = [part for key, value in {"rehearse": "false", **parameters}.items() for part in ("-p", key, value)]
        capsys.readouterr()
        code = command.main(
            [f"runbooks/{name}", *given, "--output", str(tmp_path / "runs"), "--json"], standalone_mode=False
        )
        result = json.loads(capsys.readouterr().out)
        assert result["error"] is None
        summary = read_summary(nbformat.read(result["output"], as_version=4))
        return code, dict(summary.facts) if summary else {}, result["findings"]

    return run_it


def _tenant(database: Database, slug: str) -> Tenant:
    with database.connection() as connection:
        return get_tenant(connection, slug)


def _drift(database: Database, slug: str) -> list[str]:
    with database.connection() as connection:
        return [str(one) for one in find_drift(connection, [get_tenant(connection, slug)])[slug]]


def test_a_drifted_tenant_is_repaired_with_the_plans_id_and_loses_nothing_unasked(
    planted: Planted, shared_database: Database, run: Any
) -> None:
    slug = planted.drifted
    before = _drift(shared_database, slug)
    code, facts, findings = run("drifted_tenant", tenant=slug)
    different = [
        finding for finding in findings if "CREATE INDEX" not in finding
    ]  # the linter has something to say of that
    assert (code, facts["planned"], facts["run"], len(different)) == (3, 1, 0, 2)
    assert _drift(shared_database, slug) == before
    code, facts, findings = run("drifted_tenant", tenant=slug, confirm=facts["plan"])
    assert (code, facts["run"], findings) == (3, 1, [f"{slug}: column sales_orders.hotfix_note is extra"])
    assert _drift(shared_database, slug) == ["column sales_orders.hotfix_note is extra"]


def test_a_tenant_is_restored_with_the_plans_id_once_it_is_suspended(
    planted: Planted, shared_database: Database, run: Any, tmp_path: Path
) -> None:
    database, slug, file = shared_database, planted.dead_letters, tmp_path / "export.erpkit"
    export_tenant(database, _tenant(database, slug), file)
    with database.connection() as connection:
        rows = count_rows(connection, f"tenant_{slug}")
        connection.execute(f"TRUNCATE tenant_{slug}.sales_order_lines")
    code, facts, findings = run("restore_tenant", file=str(file))
    assert (code, facts["restored"], findings) == (
        3, 0, [f"{slug}: it is active: suspend it first", f"{slug}: sales_order_lines has fewer rows than in the file"],
    )  # fmt: skip
    with database.connection() as connection:
        set_status(connection, slug, "suspended")
    code, facts, _ = run("restore_tenant", file=str(file), confirm=facts["plan"])
    assert (code, facts["restored"], facts["status"]) == (0, 1, "suspended")
    with database.connection() as connection:
        assert count_rows(connection, f"tenant_{slug}") == rows
        assert count_rows(connection, f"tenant_{slug}_damaged")["sales_order_lines"] == 0


def test_a_dispatcher_that_was_killed_is_found_out_and_its_work_taken_over(
    planted: Planted, shared_database: Database, registry: Registry, run: Any, tmp_path: Path
) -> None:
    database, health = shared_database, tmp_path / "health.json"
    worker = WorkerProcess(database.conninfo, "erpkit.sample", health)
    try:
        worker.start()
    finally:
        worker.kill()
    place_orders(database, registry, _tenant(database, planted.drifted), 3, size=SMALL)
    given = {"health_file": str(health), "max_age": "0"}
    code, facts, findings = run("stopped_dispatcher", **given)
    assert (code, facts["handled"], facts["wait now"]) == (3, 0, 6)
    assert "no dispatcher is connected" in findings
    code, facts, findings = run("stopped_dispatcher", **given, confirm=facts["plan"])
    found = [finding for finding in findings if "skipped: " not in finding]
    assert (code, facts["wait now"], found) == (3, 0, ["no dispatcher is connected"])
    assert facts["handled"] >= 6


def test_an_undeclared_dependency_of_the_registered_modules_is_found_with_its_cure(
    planted: Planted, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = tmp_path / "careless-1.0.dist-info"
    records.mkdir()
    lines = [f"{name} = erpkit.sample.{name}:module" for name in MODULES]
    (records / "entry_points.txt").write_text(
        "\n".join(["[careless]", *lines, "bonus = erpkit.sample.careless.bonus:module"])
    )
    (records / "METADATA").write_text("Metadata-Version: 2.1\nName: careless\nVersion: 1.0\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    code, facts, findings = run("undeclared_dependency", modules="careless")
    assert (code, facts) == (3, {"to declare": 1, "to cut": 0})
    assert findings == ["bonus needs billing: declare: Module('bonus', dependencies=('sales', 'billing'))"]
