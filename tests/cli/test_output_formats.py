"""What lists or shows: rows with tabs in a pipe, and the formats of `-o`; on a terminal, colours and progress for a person."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from operator import itemgetter
from pathlib import Path

import click
import pytest

from erpkit.cli import erpkit as root
from erpkit.database import Database
from erpkit.modules import Registry
from erpkit.sample.demo import Planted
from erpkit.table import Column, Table
from tests.command import erpkit, on_a_terminal, rows_of, start_on_a_terminal
from tests.conftest import plant_copy

READING = [
    "tenants list", "tenants inspect", "tenants inspect acme", "tenants drift", "migrate status", "migrate history", "modules list",
    "queries check", "queries generate --check", "events list acme", "events trace {uuid}", "events lag", "events replays",
    "events shadows", "events watermill", "events dead-letters list", "events dead-letters count",
    "events dead-letters count --by handler", "events dead-letters show {tenant} {offset}", "runs", "mcp --list", "kernels list",
    "doctor", "db status", "modules check", "modules graph --impact catalog", "modules graph --what-if sales->catalog",
    "migrate lint",
]  # fmt: skip
PLANS = [
    "migrate plan", "migrate up", "migrate down --all --module billing --to 3", "migrate redo --all --module catalog",
    "tenants repair bluebird", "tenants drop delta_tools", "tenants hand-over", "tenants release", "events prune",
    "events seek billing.on_stock_reserved --to now", "events replay --topic billing.*", "events dead-letters retry",
    "events dead-letters discard --reason x", "events dead-letters edit {tenant} {offset} --set currency=EUR --reason x",
    "runs prune", "tenants restore {file}",
]  # fmt: skip
DOING = [  # one after the other, on a tenant of their own
    "tenants create newco", "tenants suspend newco", "tenants activate newco", "tenants rename newco newer",
    "tenants archive newer", "tenants export newer {file}", "tenants import {file} --as again", "events dispatch --once",
    "db start", "db stop", "events nats stop", "modules check --no-database --baseline", "migrate new x --module lone",
]  # fmt: skip
ELSEWHERE = {  # what takes a kernel, a broker or another ERP: the test that asks for its rows
    "run": "runs/test_run_cli.py", "runs show": "runs/test_runs_cli.py", "runs rerun": "runs/test_runs_cli.py",
    "demo": "cli/test_cli.py", "serve": "app/test_serving.py", "kernels start": "kernels/test_warm_runs.py",
    "kernels stop": "kernels/test_warm_runs.py", "events forward": "events/brokers/test_brokers_cli.py",
    "events nats start": "events/brokers/test_brokers_cli.py", "tenants adopt": "tenants/test_adoption.py",
    "migrate force": "migrations/test_golang_fleet.py",
}  # fmt: skip
NO_ROWS = {"completion", "db url", "lab", "migrate show"}  # a script, a value, a server
WITHOUT_FORMATS = NO_ROWS - {"migrate show"}  # which has JSON


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
def words(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What takes the place of the names in the commands."""
    (letter, *_) = json.loads(erpkit("events", "dead-letters", "list", "--json").stdout)
    (event,) = json.loads(erpkit("events", "list", "acme", "--limit", "1", "--json").stdout)
    file = str(tmp_path_factory.mktemp("exports") / "delta_tools.erpkit")
    assert erpkit("tenants", "export", "delta_tools", file).returncode == 0
    return {"tenant": letter["tenant"], "offset": str(letter["offset"]), "uuid": event["uuid"], "file": file}


@pytest.mark.parametrize("command", READING)
def test_in_a_pipe_each_line_is_a_whole_row_with_tabs_and_nothing_else_is_there(
    command: str, words: dict[str, str]
) -> None:
    arguments = command.format_map(words).split()
    done, shown = erpkit(*arguments), erpkit(*arguments, "-o", "csv")
    assert done.returncode in (0, 3), done.stderr
    head, *rows = csv.reader(io.StringIO(shown.stdout))
    assert {len(row) for row in [*rows, *rows_of(done)]} <= {len(head)}
    plain = [[value.replace("\t", r"\t").replace("\n", r"\n") for value in row] for row in rows]  # as a row is one line
    if not {"recorded", "dead rows", "served", "for"} & set(head):  # figures which may change in between
        assert rows_of(done) == plain


@pytest.mark.parametrize("command", PLANS)
def test_in_a_pipe_the_rows_of_a_plan_are_its_steps_and_how_to_apply_it_is_said_beside(
    command: str, words: dict[str, str]
) -> None:
    done = erpkit(*command.format_map(words).split(), ERPKIT_RETENTION="events=1d,inbox=1d,replays=1d")
    assert done.returncode in (0, 3), done.stderr
    assert re.search(r"^plan [a-z-]+-\w{10}: ", done.stderr, re.MULTILINE)
    has_steps = "to apply it:\n    erpkit " in done.stderr
    assert has_steps == ("there is nothing to do" not in done.stderr)
    assert bool(rows_of(done)) >= has_steps or "restore" in command  # whose rows are the tables that hold other numbers


def test_every_command_was_tried() -> None:
    tried = {" ".join(_words(one)) for one in (*READING, *PLANS, *DOING)}
    assert {name for name, _ in _commands(root)} == tried | ELSEWHERE.keys() | NO_ROWS
    for file in ELSEWHERE.values():
        assert re.search(r"rows_of\(|split\(.\\t.\)", (Path(__file__).parents[1] / file).read_text()), file


def test_every_command_has_the_formats() -> None:
    for name, command in _commands(root):
        chosen = next((one.type for one in command.params if "-o" in one.opts), None)
        known = set(chosen.choices) if isinstance(chosen, click.Choice) else set()
        if name in NO_ROWS:
            assert ("json" in known) == (name not in WITHOUT_FORMATS), name
        else:
            assert {"table", "wide", "name", "csv", "json"} <= known, name
            assert "in a pipe, rows with tabs" in (_format(command) or ""), name
            assert any("--json" in one.opts for one in command.params), name


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


def test_a_plan_without_a_document_of_its_own_is_json_with_its_id(planted: Planted) -> None:
    document = json.loads(erpkit("tenants", "drop", "delta_tools", "--json").stdout)
    assert (document["applied"], {"table", "rows"} <= document["rows"][0].keys()) == (False, True)
    assert re.fullmatch(r"drop-\w{10}", document["plan"])


def test_names_are_those_of_what_the_rows_are_about(planted: Planted) -> None:
    assert erpkit("migrate", "plan", "-o", "name").stdout == f"{planted.behind}\n"
    assert erpkit("events", "dead-letters", "count", "-o", "name").stdout == f"{planted.dead_letters}\n"


def test_a_plan_of_many_tenants_has_a_row_for_each_in_a_pipe(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("erpkit.migrations.plan.MOST_LINES", 2)
    from erpkit import open as open_erp

    with open_erp() as erp:
        record = erp.migrations.redo(["acme", "bluebird", "cobalt"], module="catalog").record
    assert (len(record.table), record.whole_table.names()) == (1, ["acme", "bluebird", "cobalt"])


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
    columns = [Column[tuple[object, ...]](name, itemgetter(n)) for n, name in enumerate(("name", "count", "all"))]
    table = Table[tuple[object, ...]](
        columns, [("a\tb", 12_345, ["x", "y"]), (None, Decimal("0.123456"), ()), ("a\tb", None, None)]
    )
    assert table.to_lines() == [r"a\tb" + "\t12345\tx, y", "\t0.123456\t", r"a\tb" + "\t\t"]
    assert table.names() == [r"a\tb", ""]


def test_what_was_measured_has_three_decimals_and_a_duration_is_in_seconds() -> None:
    measured: list[float | timedelta] = [
        12.0,
        1234.56789,
        0.000123456,
        -0.0,
        0.1 + 0.2,
        timedelta(minutes=2, microseconds=1600),
        float("inf"),
    ]
    columns = [Column[float | timedelta]("value", lambda row: row)]
    lines = ["12", "1234.568", "0.000123", "0", "0.3", "120.002", "inf"]
    assert Table(columns, measured).to_lines() == lines
    sums: list[float | timedelta] = [0.1 + 0.2]
    assert Table(columns, sums, raw=True).to_lines() == ["0.30000000000000004"]  # what SQL returned is whole


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


def test_what_was_done_is_a_row_in_a_pipe_and_a_sentence_for_a_person(
    words: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "modules.toml").write_text('[[module]]\nname = "lone"\nmigrations = "files"\n')
    monkeypatch.chdir(tmp_path)
    homes = {"db stop": str(tmp_path), "events nats stop": str(tmp_path)}
    for command in DOING:
        name = " ".join(_words(command))
        lone = {"ERPKIT_MODULES": "modules.toml"} if name in ("migrate new", "modules check") else {}
        home = {"ERPKIT_HOME": homes[name]} if name in homes else {}
        file = str(tmp_path / "newer.erpkit")
        done = erpkit(*command.format_map({**words, "file": file}).split(), **lone, **home)
        assert done.returncode in (0, 3), (command, done.stderr)
        assert rows_of(done), command
        if command != "events dispatch --once":
            assert len(rows_of(done)) == 1, command
            assert [line for line in done.stderr.splitlines() if not line.startswith("target: ")], command
    assert json.loads(erpkit("tenants", "suspend", "newer", "-o", "json").stdout)[0]["status"] == "suspended"
    assert erpkit("tenants", "activate", "newer", "-o", "name").stdout == "newer\n"
    assert re.search(r"^newer is suspended$", on_a_terminal("tenants", "suspend", "newer"), re.MULTILINE)


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
