"""Names and errors from a database reach a terminal as text: nothing in them acts, breaks a table or leaves a comment."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from erpkit.database import Database
from erpkit.modules import Registry
from tests.command import erpkit
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


def _on_a_terminal(*arguments: str) -> str:
    """Return what a command sends to a terminal, without the styles that erpkit itself gives to its tables."""
    main, terminal = pty.openpty()
    command = [sys.executable, "-c", "from erpkit.cli import main; main()", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=terminal, stderr=terminal)
    os.close(terminal)
    sent = b""
    try:
        while part := os.read(main, 65536):
            sent += part
    except OSError:  # Linux's way to say that the other end is closed
        pass
    process.wait(60)
    os.close(main)
    return re.sub(r"\x1b\[[0-9;]*m", "", sent.decode()).replace("\r\n", "\n")


COMMANDS = [
    "tenants list", "tenants inspect", "tenants inspect cobalt", "tenants drift", "tenants drift --ddl",
    "events dead-letters list",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_that_acts_is_sent_to_a_terminal(command: str) -> None:
    sent = _on_a_terminal(*command.split())
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
