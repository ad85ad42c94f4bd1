"""`--help` in whole sentences with an example each, what was probably meant by a wrong name, and completion in a shell."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from erpkit.cli import erpkit as root
from erpkit.cli.examples import EXAMPLES
from erpkit.near import did_you_mean, find_near
from tests.command import erpkit, on_a_terminal


def _all(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command
        yield " ".join((*path, name)), command
        if isinstance(command, click.Group):
            yield from _all(command, (*path, name))


COMMANDS = dict(_all(root))
SINGLE = [name for name, one in COMMANDS.items() if not isinstance(one, click.Group) or one.invoke_without_command]
GROUPS = ["", *(name for name, command in COMMANDS.items() if isinstance(command, click.Group))]


@pytest.mark.parametrize("name", SINGLE)
def test_each_command_has_an_example_of_itself(name: str) -> None:
    shown = CliRunner().invoke(root, [*name.split(), "--help"], prog_name="erpkit").output
    examples = re.split(r"^Examples?:$", shown, flags=re.MULTILINE)[1].strip().splitlines()
    assert [line.strip() for line in examples] == list(EXAMPLES[name])
    assert all(f"erpkit {name}" in line for line in examples)


def test_no_example_is_of_a_command_that_is_gone() -> None:
    assert sorted(EXAMPLES) == sorted(SINGLE)


@pytest.mark.parametrize("name", SINGLE)
def test_each_option_is_explained_by_a_sentence(name: str) -> None:
    texts = {one.opts[-1]: one.help or "" for one in COMMANDS[name].params if isinstance(one, click.Option)}
    assert {option for option, text in texts.items() if not re.fullmatch(r"[A-Z0-9].*\.", text, re.DOTALL)} == set()


@pytest.mark.parametrize("name", GROUPS)
def test_a_group_lists_its_commands_with_whole_sentences(name: str) -> None:
    shown = CliRunner().invoke(root, [*name.split(), "--help"], terminal_width=80).output
    listed = " ".join(re.split(r"^Examples?:$", shown.split("Commands:")[1], flags=re.MULTILINE)[0].split())
    assert "..." not in listed
    group = COMMANDS[name] if name else root
    assert isinstance(group, click.Group)
    names = group.list_commands(click.Context(group))
    for one, following in zip(names, [*names[1:], ""], strict=True):
        assert re.search(rf"(^|\. ){one} [A-Z].*?\.( {following} [A-Z]|$)", listed), one


def test_a_command_that_is_none_is_answered_with_what_was_probably_meant() -> None:
    for wrong, meant in (
        ("tenats list", "There is no command 'tenats'; did you mean tenants?"),
        ("tenants lst", "There is no command 'lst'; did you mean list?"),
        ("events dead-letter list", "There is no command 'dead-letter'; did you mean dead-letters?"),
        ("db xyz", "There is no command 'xyz'; there are start, status, stop, url"),
        ("runs list", "'list'; there are prune, rerun, show. Without one: List the runs that `erpkit run` recorded"),
        ("events status", "There is no command 'status'; there are "),
        ("tenants list --jsn", "Did you mean '--json'?"),
    ):
        done = erpkit(*wrong.split())
        assert (done.returncode, meant in done.stderr) == (2, True), done.stderr


def test_an_unknown_name_is_answered_with_those_that_are_like_it_else_with_all() -> None:
    handlers = ["billing.on_stock_reserved", "billing.on_paid", "sales.on_order_placed"]
    assert find_near("billing.on_stock_reserve", handlers)[0] == "billing.on_stock_reserved"
    assert find_near("order", handlers) == ["sales.on_order_placed"]
    assert did_you_mean("ACMEE", ["acme", "bluebird"]) == "did you mean acme?"
    assert did_you_mean("x", ["acme", "bluebird"]) == "there are acme, bluebird"
    assert did_you_mean("x", [f"t{n}" for n in range(30)], listed=2) == "there are t0, t1, …"
    assert did_you_mean("x", []) == "there are none"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_completes_commands_options_and_values(shell: str) -> None:
    script = erpkit("completion", shell).stdout
    assert "_ERPKIT_COMPLETE" in script
    assert "tenants" in _completed("erpkit ten", 1)
    assert "dead-letters" in _completed("erpkit events dea", 2)
    assert "--against" in _completed("erpkit tenants drift --ag", 3)
    assert "wide" in _completed("erpkit tenants list -o wi", 4)


def test_bash_takes_the_script() -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", 'eval "$(erpkit completion bash)" && complete -p erpkit'],
        env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, "_erpkit_completion erpkit" in done.stdout) == (0, True), done.stderr


def test_help_is_as_wide_as_the_terminal_up_to_120_columns() -> None:
    for columns in (80, 120, 200):
        text = on_a_terminal("events", "replay", "--help", columns=columns).split("Examples:")[0]
        assert max(map(len, text.splitlines())) <= min(columns, 120)


def _completed(line: str, word: int) -> str:
    return erpkit(COMP_WORDS=line, COMP_CWORD=str(word), _ERPKIT_COMPLETE="bash_complete").stdout
