"""`erpkit tenants repair` and `restore`: a dry run first, the plan's id to go on, and one line for what is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from erpkit.cli.tenants import command
from erpkit.database import Database
from erpkit.errors import PlanChangedError, UsageError
from erpkit.modules import Registry
from erpkit.sample.demo import Planted
from erpkit.tenants import get_tenant, set_status
from erpkit.tenants.health import count_rows
from tests.conftest import plant_copy


@pytest.fixture(scope="module")
def planted(shared_database: Database, registry: Registry) -> Planted:
    return plant_copy(shared_database, registry)


@pytest.fixture
def erpkit(shared_database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command in this process; return its exit code and what it printed for a person, or its JSON."""
    monkeypatch.setenv("ERPKIT_DATABASE", shared_database.conninfo)
    monkeypatch.setenv("ERPKIT_MODULES", "erpkit.sample")

    def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        form = () if "--json" in arguments else ("-o", "table")
        code = command.main([*arguments, *form], standalone_mode=False)
        return code or 0, capsys.readouterr().out

    return run


def test_repair_shows_the_statements_and_runs_those_that_were_confirmed(planted: Planted, erpkit: Any) -> None:
    code, shown = erpkit("repair", planted.drifted)
    assert (code, shown.splitlines()[0].startswith("target: ")) == (3, True)
    assert "CREATE INDEX billing_payments_invoice" in shown
    assert "-- left out, as it loses values (--accept loses takes it in): ALTER TABLE" in shown
    plan = json.loads(erpkit("repair", planted.drifted, "--json")[1])
    assert (plan["applied"], len(plan["steps"]), len(plan["left"])) == (False, 1, 1)
    assert f"to apply it:\n    erpkit tenants repair {planted.drifted} --confirm {plan['plan']}" in shown
    with pytest.raises(PlanChangedError):
        erpkit("repair", planted.drifted, "--confirm", "repair-0000000000")
    code, done = erpkit("repair", planted.drifted, "--confirm", plan["plan"])
    assert (code, "1 statement, 1 difference is left" in done) == (3, True)
    assert "there is nothing to do" in erpkit("repair", planted.drifted)[1]
    lossy = json.loads(erpkit("repair", planted.drifted, "--accept", "loses", "--json")[1])
    code, _ = erpkit("repair", planted.drifted, "--accept", "loses", "--confirm", lossy["plan"])
    assert code == 0
    code, nothing = erpkit("repair", planted.drifted)
    assert (code, "there is nothing to do" in nothing) == (0, True)
    with pytest.raises(UsageError, match=f"{planted.behind}: billing is pending"):
        erpkit("repair", planted.behind)


def test_restore_shows_what_was_lost_and_puts_the_export_in_place(
    planted: Planted, erpkit: Any, shared_database: Database, tmp_path: Path
) -> None:
    slug, file = planted.dead_letters, str(tmp_path / "one.erpkit")
    erpkit("export", slug, file)
    with shared_database.connection() as connection:
        rows = count_rows(connection, f"tenant_{slug}")
        connection.execute(f"TRUNCATE tenant_{slug}.sales_order_lines")
    code, shown = erpkit("restore", file)
    assert code == 0
    for text in (
        "sales_order_lines",
        f"! {slug}: it is active: suspend it first\n    erpkit tenants suspend {slug}\n",
        "dry run: nothing was changed",
    ):
        assert text in shown
    plan = json.loads(erpkit("restore", file, "--json")[1])
    assert plan["changes"] == [{"table": "sales_order_lines", "now": 0, "then": rows["sales_order_lines"]}]
    with pytest.raises(UsageError, match="is active: suspend it first"):
        erpkit("restore", file, "--confirm", plan["plan"])
    with shared_database.connection() as connection:
        set_status(connection, slug, "suspended")
    code, done = erpkit("restore", file, "--confirm", plan["plan"])
    assert (code, f"restored {slug}, suspended; the damaged one is {slug}_damaged, archived" in done) == (0, True)
    assert f"erpkit tenants rename {slug} {slug}_restored" in done
    with shared_database.connection() as connection:
        assert count_rows(connection, get_tenant(connection, slug).schema) == rows
    with pytest.raises(UsageError, match="none.erpkit cannot be read"):
        erpkit("restore", str(tmp_path / "none.erpkit"))
