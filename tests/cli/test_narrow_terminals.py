"""Tables in terminals of 80 and 120 columns."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from erpkit.database import Database
from erpkit.modules import Registry
from erpkit.sample.demo import choose_troubles
from tests.command import erpkit, on_a_terminal
from tests.conftest import plant_copy

COMMANDS = [
    "tenants list", "tenants inspect", "tenants inspect acme", "events lag", "events dead-letters list", "events dead-letters count",
    "events list acme", "migrate status", "migrate history", "modules list", "runs",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _planted(shared_database: Database, registry: Registry) -> None:
    plant_copy(shared_database, registry, 12)


@pytest.fixture(autouse=True)
def environment(shared_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERPKIT_DATABASE", shared_database.conninfo)
    monkeypatch.setenv("ERPKIT_MODULES", "erpkit.sample")


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_line_of_a_table_is_wider_than_the_terminal(command: str, columns: int) -> None:
    lines = [line for line in on_a_terminal(*command.split(), columns=columns).splitlines() if _is_of_a_table(line)]
    assert [line for line in lines if len(line) > columns] == []


def test_at_80_columns_names_and_numbers_are_whole_and_what_is_left_out_is_said() -> None:
    shown = on_a_terminal("tenants", "inspect", columns=80)
    tenants = [*choose_troubles(["acme", "bluebird", "cobalt", "delta_tools"]).tenants, "elm_street", "kestrel"]
    rows = {line.split()[0]: line.split() for line in shown.splitlines() if line.split()[:1]}
    assert [rows[tenant][1] in ("active", "suspended") for tenant in tenants] == [True] * len(tenants)
    assert "No room for: dead rows. A wider terminal shows them, or -o wide." in shown.replace("\n", " ")
    assert re.search(r"^acme +active( {2,}\d[\d,.]*)+$", shown, re.MULTILINE)


def test_a_command_that_helps_against_several_findings_stands_once_below_them() -> None:
    lines = on_a_terminal("tenants", "drift", columns=120).splitlines()
    commands = [line for line in lines if line.startswith("    erpkit ")]
    assert len(commands) == len(set(commands)) < sum(line.startswith("! ") for line in lines)


def test_at_120_columns_nothing_is_left_out_of_an_inspection() -> None:
    shown = on_a_terminal("tenants", "inspect", columns=120)
    assert "No room for" not in shown
    assert "dead rows" in shown


def test_a_path_is_never_cut(tmp_path: Path, shared_database: Database) -> None:
    path = f"{tmp_path}/{'reports/' * 12}inspect_tenants.html"
    assert erpkit("run", "inspect_tenants", "--output", str(tmp_path)).returncode in (0, 3)
    with shared_database.connection() as connection:
        connection.execute("UPDATE public.erpkit_runs SET report = %s", [path])
    narrow, wide = (on_a_terminal("runs", columns=columns) for columns in (80, 400))
    assert path in wide
    assert "reports/" not in narrow
    assert "report. A wider terminal" in narrow.replace("\n", " ")
    assert path in erpkit("runs").stdout


def _is_of_a_table(line: str) -> bool:
    return not line.startswith(("!", "    ", "target:", "-", "–", "schema "))
