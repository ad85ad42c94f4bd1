"""Each command that a text names exists: in the README, in CONTRIBUTING, in notebooks, and in what messages and findings advise."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import erpkit as package
from erpkit.cli import erpkit

ROOT = Path(__file__).parents[2]
SOURCE = Path(package.__file__).parent
# `erpkit`, its subcommands with `|` between alternatives, and what follows up to the end of the command or sentence.
_NAMED = re.compile(r"(?<![\w./@'-])erpkit ((?:[a-z-]+(?:\|[a-z-]+)*)(?: [^\n`;:,()]*)?)")
_OPTION = re.compile(r"(?<![\w-])(-{1,2}[a-z][a-z-]*)")
_WRAPPED = r"(?<!`)`([^`\n]+)\n([^`\n]+)`(?!`)"  # a command that goes on in the next line of a text
_SPELLED = r"\\\n +"  # a shell's line end inside of a command


def _texts() -> Iterator[tuple[str, str]]:
    """Yield what people read, with its place."""
    for name in ("README.md", "CONTRIBUTING.md"):
        yield name, re.sub(_WRAPPED, r"`\1 \2`", re.sub(_SPELLED, " ", (ROOT / name).read_text("utf-8")))
    for path in sorted((ROOT / "notebooks").rglob("*.ipynb")):
        for cell in json.loads(path.read_text("utf-8"))["cells"]:
            if cell["cell_type"] == "markdown":
                yield path.name, "".join(cell["source"])
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield f"{path.name}:{node.lineno}", "".join(_part(value) for value in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield f"{path.name}:{node.lineno}", node.value


def _part(value: ast.expr) -> str:
    return str(value.value) if isinstance(value, ast.Constant) else "X"


def _find(text: str) -> Iterator[str]:
    """Yield the commands in a text: in sentences those that begin with a command's name, as `erpkit reads this` is none."""
    known = set(erpkit.list_commands(click.Context(erpkit)))
    for found in _NAMED.finditer(text):
        first = re.split(r"[ |]", found[1])[0]
        is_meant = text[: found.start()].endswith("`") or found.start() == 0
        if first in known or (is_meant and found[1][len(first) :].startswith((" -", "|"))):
            yield found[1]


NAMED = sorted({(command, place.split(":")[0]) for place, text in _texts() for command in _find(text)})


def _resolve(words: list[str]) -> tuple[list[str], click.Command]:
    """Follow the names of groups and commands; raises KeyError for a word after a group that is none of its commands."""
    command: click.Command = erpkit
    path: list[str] = []
    for word in words:
        if not isinstance(command, click.Group) or not re.fullmatch(r"[a-z][a-z-]*", word):
            break
        found = command.get_command(click.Context(command), word)
        if found is None:
            raise KeyError(f"{' '.join(['erpkit', *path])} has no command {word}")
        command = found
        path.append(word)
    return path, command


def _expanded(named: str) -> list[list[str]]:
    """Return `tenants list|create` as two commands."""
    words = named.split()
    return [list(one) for one in product(*(word.split("|") if "|" in word else [word] for word in words))]


@pytest.mark.parametrize(("named", "place"), NAMED)
def test_a_command_that_a_text_names_exists_with_its_options_and_tells_its_help(named: str, place: str) -> None:
    for words in _expanded(named):
        path, command = _resolve(words)
        options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        assert set(_OPTION.findall(" ".join(words[len(path) :]))) <= options | {"--help", "-h"}, (place, path)
        shown = CliRunner().invoke(erpkit, [*path, "--help"])
        assert (shown.exit_code, shown.output.startswith("Usage: ")) == (0, True)


def test_what_names_commands_was_found() -> None:
    assert len(NAMED) > 100
    for named in ("tenants repair X", "migrate up --tenant X", "demo", "events dead-letters edit|retry|discard"):
        assert any(command.startswith(named) for command, _ in NAMED), named
    with pytest.raises(KeyError, match="erpkit tenants has no command forget"):
        _resolve(["tenants", "forget", "acme"])


def _groups(group: click.Group, path: str = "erpkit") -> Iterator[tuple[str, set[str]]]:
    context = click.Context(group)
    subcommands = {name: group.get_command(context, name) for name in group.list_commands(context)}
    if group is not erpkit:
        yield path, set(subcommands)
    for name, command in subcommands.items():
        if isinstance(command, click.Group):
            yield from _groups(command, f"{path} {name}")


GROUPS = dict(_groups(erpkit))


@pytest.mark.parametrize("group", [group for group in GROUPS if group != "erpkit events nats"])
def test_the_readme_lists_every_command_of_a_group(group: str) -> None:
    listed = re.findall(rf"^    {group} ([a-z]+\|[a-z|-]+)", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    groups = {other.removeprefix(f"{group} ") for other in GROUPS}  # these have a line of their own
    assert [set(one.split("|")) - groups for one in listed] == [GROUPS[group] - groups]


def test_the_list_of_commands_repeats_no_subcommands() -> None:
    """A list by hand is soon incomplete; `erpkit tenants --help` has the true one."""
    shown = CliRunner().invoke(erpkit, ["--help"]).output
    lines = dict(re.findall(r"^  ([a-z]+)\s+(.+)$", shown, re.MULTILINE))
    for group, commands in GROUPS.items():
        assert not re.search(rf"\b({'|'.join(commands)}), ({'|'.join(commands)})\b", lines.get(group.split()[1], "")), (
            group
        )


def test_the_readme_says_which_commands_write_at_once_and_which_show_a_plan_first() -> None:
    text = " ".join((ROOT / "README.md").read_text("utf-8").split())
    (parts,) = re.findall(
        r"`--confirm` and the plan's id: (.*?)\. These write at once, without a dry run: (.*?)\. All", text
    )
    planned, at_once = (
        {" ".join(_resolve(words)[0]) for one in re.findall(r"`erpkit ([^`]+)`", part) for words in _expanded(one)}
        for part in parts
    )
    assert planned == {
        path for path, command in _commands(erpkit) if any(one.name == "confirm" for one in command.params)
    }
    assert at_once >= {f"tenants {verb}" for verb in ("create", "import", "rename", "suspend", "activate", "archive")}
    assert planned.isdisjoint(at_once)


def _commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command
