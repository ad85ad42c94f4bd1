"""What lists or shows: rows with tabs in a pipe, and the formats of `-o`; on a terminal, colours and progress for a person."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterator

import click
import pytest

from erpkit.cli import erpkit as root
from erpkit.database import Database
from erpkit.modules import Registry
from erpkit.sample.demo import Planted
from erpkit.table import Column, Table
from tests.command import erpkit, on_a_terminal, start_on_a_terminal
from tests.conftest import plant_copy

READING = [
    "tenants list", "tenants inspect", "tenants inspect acme", "tenants drift", "migrate status", "migrate history", "modules list",
    "queries check", "events list acme", "events trace {uuid}", "events lag", "events replays", "events shadows",
    "events watermill", "events dead-letters list", "events dead-letters count", "events dead-letters count --by handler",
    "events dead-letters show {tenant} {offset}", "runs", "mcp --list", "kernels list",
]  # fmt: skip
COLUMNS = {  # how many values a row has, of those commands that show some on the planted data
    "tenants list": 4, "tenants inspect": 12, "tenants inspect acme": 12, "tenants drift": 3, "migrate status": 6, "migrate history": 8,
    "modules list": 6, "events list acme": 4, "events trace {uuid}": 8, "events dead-letters list": 6, "events dead-letters count": 7,
    "events dead-letters count --by handler": 2, "events dead-letters show {tenant} {offset}": 2, "mcp --list": 3, "kernels list": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def planted(shared_database: Database, registry: Registry) -> Iterator[Planted]:
    planted = plant_copy(shared_database, registry)
    with shared_database.connection() as connection:
        connection.execute("UPDATE public.tenants SET name = 'A\tname\nof two lines' WHERE slug = 'acme'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ERPKIT_DATABASE", shared_database.conninfo)
        patch.setenv("ERPKIT_MODULES", "erpkit.sample")
        yield planted


@pytest.fixture(scope="module")
def words(planted: Planted) -> dict[str, str]:
    """What takes the place of the names in `READING`."""
    (letter, *_) = json.loads(erpkit("events", "dead-letters", "list", "--json").stdout)
    (event,) = json.loads(erpkit("events", "list", "acme", "--limit", "1", "--json").stdout)
    return {"tenant": letter["tenant"], "offset": str(letter["offset"]), "uuid": event["uuid"]}


@pytest.mark.parametrize("command", READING)
def test_in_a_pipe_each_line_is_a_whole_row_with_tabs_and_nothing_else_is_there(
    command: str, words: dict[str, str]
) -> None:
    done = erpkit(*command.format_map(words).split())
    assert done.returncode in (0, 3), done.stderr
    lines = done.stdout.splitlines()
    if lines or command != "kernels list":  # which another user of this machine may have started
        assert {line.count("\t") + 1 for line in lines} == ({COLUMNS[command]} if command in COLUMNS else set())
    assert not re.search(r"\x1b|…|target:|working for", done.stdout)
    table = erpkit(*command.format_map(words).split(), "-o", "csv").stdout
    rows = list(csv.reader(io.StringIO(table)))[1:]
    plain = [[value.replace("\t", r"\t").replace("\n", r"\n") for value in row] for row in rows]  # as a row is one line
    if not any(
        head in table for head in ("recorded", "dead rows", "served")
    ):  # figures of the server's, which may change in between
        assert [line.split("\t") for line in lines] == plain


def test_every_command_that_lists_or_shows_was_tried() -> None:
    listing = {name for name, command in _commands(root) if "in a pipe" in (_format(command) or "")}
    assert listing == {" ".join(_words(one)) for one in READING}


def test_every_command_with_json_or_a_plan_has_the_formats() -> None:
    for name, command in _commands(root):
        options = {option for parameter in command.params for option in parameter.opts}
        assert ("--json" in options) <= ("-o" in options), name
        assert ("--confirm" in options) <= ("-o" in options), name


@pytest.mark.parametrize("command", ["tenants list", "events dead-letters list", "modules check", "migrate plan"])
def test_json_is_the_same_however_it_is_asked_for(command: str, planted: Planted) -> None:
    short, long = (erpkit(*command.split(), *option) for option in (("-o", "json"), ("--json",)))
    assert json.loads(short.stdout) == json.loads(long.stdout)
    assert short.returncode == long.returncode


def test_two_formats_exclude_one_another(planted: Planted) -> None:
    done = erpkit("tenants", "list", "--json", "-o", "csv")
    assert (done.returncode, "--json and -o csv exclude one another" in done.stderr, done.stdout) == (2, True, "")


def test_names_are_the_first_column_each_once(planted: Planted) -> None:
    assert erpkit("tenants", "list", "-o", "name").stdout.split() == list(planted.tenants)
    assert erpkit("events", "dead-letters", "list", "-o", "name").stdout == f"{planted.dead_letters}\n"
    assert on_a_terminal("tenants", "list", "-o", "name", columns=20).split()[2:] == list(planted.tenants)


def test_a_wide_table_has_all_columns_on_a_narrow_terminal(planted: Planted) -> None:
    shown = on_a_terminal("tenants", "inspect", "-o", "wide", columns=80)
    head = next(line for line in shown.splitlines() if line.startswith("tenant "))
    assert all(name in head for name in ("schema", "size, MiB", "last event", "dead rows"))


def test_a_plan_is_words_in_a_pipe_and_its_rows_where_they_are_asked_for(planted: Planted) -> None:
    words = erpkit("migrate", "plan")
    assert re.search(
        r"^dry run: nothing was changed; to apply it:\n    erpkit migrate up --confirm migrate-\w+$", words.stdout, re.MULTILINE
    )  # fmt: skip
    rows = erpkit("migrate", "plan", "-o", "csv")
    assert rows.stdout.splitlines()[0] == "wave,tenant,migrations,count,statements"
    assert "dry run: nothing was changed" in rows.stderr


def test_nothing_to_list_is_said_to_a_person_and_is_no_row(planted: Planted) -> None:
    done = erpkit("events", "dead-letters", "list", "--tenant", "acme", "--handler", "no*")
    assert (done.stdout, "o dead letter" in done.stderr) == ("", True)
    assert erpkit("runs", "-o", "csv").stdout.startswith("run,started,notebook,")


def test_each_tenant_has_a_line_of_migration_status_in_a_pipe_however_many_there_are(
    planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("erpkit.migrations.status.MOST_LINES", 3)
    with click.Context(click.Command("x")):
        from erpkit import open as open_erp

        with open_erp() as erp:
            found = erp.migrations.status()
    assert len(found.table) < len(planted.tenants) + 1 == len(found.whole_table)


def test_values_for_a_program_are_whole() -> None:
    table = Table(
        [Column("name", lambda row: row[0]), Column("count", lambda row: row[1]), Column("all", lambda row: row[2])],
        [("a\tb", 12_345, ["x", "y"]), (None, 0.123456, ()), ("a\tb", None, None)],
    )
    assert table.to_lines() == [r"a\tb" + "\t12345\tx, y", "\t0.123456\t", r"a\tb" + "\t\t"]
    assert table.names() == [r"a\tb", ""]


def test_a_finding_has_the_colour_of_its_severity_on_a_terminal_only(planted: Planted) -> None:
    shown = on_a_terminal("tenants", "inspect", styles=True)
    assert re.search(rf"\x1b\[33m! {planted.dead_letters}: dead letters", shown)
    assert "\x1b[36m    erpkit tenants repair" in shown
    assert "\x1b[3" not in on_a_terminal("tenants", "inspect", styles=True, NO_COLOR="1")
    piped = erpkit("tenants", "inspect", "-o", "table")
    assert "\x1b" not in piped.stdout + piped.stderr


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("command", ["tenants drift", "tenants inspect", "events lag", "doctor", "migrate plan"])
def test_sentences_are_folded_between_words_and_what_is_to_be_pasted_is_not(
    command: str, columns: int, planted: Planted
) -> None:
    lines = on_a_terminal(*command.split(), columns=columns).splitlines()
    assert [line for line in lines if len(line) > columns and not line.startswith(("    ", "target: "))] == []
    commands = [line for line in on_a_terminal(*command.split(), columns=300).splitlines() if "    erpkit " in line]
    assert [line for line in commands if line not in lines and "migrate-" not in line] == []


def test_what_takes_longer_than_a_second_shows_that_it_goes_on_until_the_result_is_there(
    planted: Planted, shared_database: Database
) -> None:
    with shared_database.connection() as connection, connection.transaction():
        connection.execute("LOCK TABLE tenant_acme.erpkit_events IN ACCESS EXCLUSIVE MODE")
        main, process = start_on_a_terminal("events", "list", "acme")
        sent = b""
        while b"working for" not in sent:  # at the latest when the process gives up and the terminal is closed
            sent += os.read(main, 65536)
    try:
        while part := os.read(main, 65536):
            sent += part
    except OSError:
        pass
    process.wait(60)
    os.close(main)
    before, _, after = sent.decode().rpartition("\r\x1b[K")
    assert before.startswith("target: ")
    assert "working for" not in after


def _commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command
        if isinstance(command, click.Group):
            yield from _commands(command, (*path, name))
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield " ".join((*path, name)), command


def _format(command: click.Command) -> str | None:
    return next((one.help for one in command.params if isinstance(one, click.Option) and "-o" in one.opts), None)


def _words(command: str) -> list[str]:
    """Return the words of a line that are the command's name."""
    names = {name for name, _ in _commands(root)}
    words = command.split()
    return next(words[:n] for n in range(len(words), 0, -1) if " ".join(words[:n]) in names)
