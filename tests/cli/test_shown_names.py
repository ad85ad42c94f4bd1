"""Names and errors from a database reach a terminal as text: nothing in them acts, breaks a table or leaves a comment."""

from __future__ import annotations

import re

import pytest

from erpkit.database import Database
from erpkit.modules import Registry
from tests.command import erpkit, on_a_terminal
from tests.conftest import plant_copy

ODD = "odd\x1b[2J\u202e\nCREATE TABLE public.made (a int); --"


@pytest.fixture(scope="module", autouse=True)
def _planted(shared_database: Database, registry: Registry) -> None:
    plant_copy(shared_database, registry, 3)
    with shared_database.connection() as connection:
        connection.execute(
            "UPDATE public.tenants SET name = %s WHERE slug = 'acme'", ["A\x1b]0;x\x07\ncme [red]x[/red]"]
        )
        connection.execute("UPDATE tenant_acme.erpkit_dead_letters SET error = %s", ["boom\x9b2J\nerpkit: fine"])
        connection.execute(f'CREATE TABLE tenant_cobalt."{ODD}" (a int)'.encode())


@pytest.fixture(autouse=True)
def environment(shared_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERPKIT_DATABASE", shared_database.conninfo)
    monkeypatch.setenv("ERPKIT_MODULES", "erpkit.sample")


COMMANDS = [
    "tenants list", "tenants inspect", "tenants inspect cobalt", "tenants drift", "tenants drift --ddl",
    "events dead-letters list",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_that_acts_is_sent_to_a_terminal(command: str) -> None:
    sent = on_a_terminal(*command.split())
    assert re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", sent) == []
    assert r"\x1b" in sent.replace("\n", "") or r"\x9b" in sent.replace("\n", "")


def test_a_row_is_a_line_in_a_pipe() -> None:
    lines = [line for line in erpkit("tenants", "list").stdout.splitlines() if "tenant_" in line]
    assert len(lines) == 3
    assert r"A\x1b]0;x\x07\ncme [red]x[/red]" in lines[0]
    assert not any(
        line.startswith("erpkit: fine") for line in erpkit("events", "dead-letters", "list").stdout.splitlines()
    )


def test_a_name_with_lines_stays_in_the_comment_of_a_script() -> None:
    script = erpkit("tenants", "drift", "cobalt", "--ddl").stdout
    assert "\x1b[2J" in script  # exact, as another program reads it
    assert [line for line in script.splitlines() if line.startswith("CREATE TABLE public.made")] == []
