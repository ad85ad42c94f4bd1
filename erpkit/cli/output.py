"""What commands share: their options, opening the ERP, and printing tables, findings or JSON.

On a terminal a command prints for a person. Where its output goes to a program (a pipe, or `-o csv`), standard output holds the rows
of its main table and nothing else, and what is said to a person goes to standard error: `show`, `show_done`, `note`, `print_target` and
`print_findings` see to it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from operator import itemgetter
from typing import Any

import click

import erpkit
from erpkit.cli.say import say as say
from erpkit.cli.say import say_drawn, start_waiting
from erpkit.cli.say import say_script as say_script
from erpkit.cli.say import say_text as say_text
from erpkit.erp import Erp
from erpkit.errors import UsageError
from erpkit.finding import Finding, exit_code, group_findings, marked
from erpkit.table import Column, Table

_Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_COLOURS = {"error": "red", "warning": "yellow"}
_FORMATS = ("table", "wide", "name", "csv", "json")
_MEANT = "erpkit.shown_as"  # in click's context: the format that was asked for
_HEAD = "erpkit.head"  # the head of the CSV that was printed last
_GAP = "erpkit.gap"  # a table was printed last
COMMAND = "cyan"  # the tone of a command to paste


def output_option(*more: str, formats: Sequence[str] = _FORMATS, document: bool = True) -> _Decorator:
    """Take `-o FORMAT`, and `--json` as another way to say `-o json`.

    `more` are formats that only this command has; `shown_as` returns which one it is. Without `-o` a terminal gets a table, and
    anything else rows without a head, with tabs between values. `as_json` tells a command that has a `document` of its own whether
    it is JSON; the JSON of the others is their rows.
    """
    known = [*formats, *more]
    text = f"{_listed(known)}{'; in a pipe, rows with tabs' if 'name' in known else ''}."
    of = click.option("-o", "shown_as", type=click.Choice(known), metavar="FORMAT", expose_value=False, is_eager=True,
                      help=text, callback=lambda context, _, value: context.meta.update({_MEANT: value}))  # fmt: skip
    json_ = click.option(
        "--json", "as_json", is_flag=True, expose_value=document, callback=lambda *it: _is_json(*it),
        help="The same as -o json.",
    )  # fmt: skip
    return lambda function: of(json_(function))


def _listed(formats: Sequence[str]) -> str:
    words = {"wide": "wide (all columns)", "name": "name (the names alone)"}
    texts = [words.get(one, one) for one in formats]
    return f"How to show it: {', '.join(texts[:-1])} or {texts[-1]}"


def _is_json(context: click.Context, _: object, flag: bool) -> bool:
    meant = context.meta.get(_MEANT)
    if flag and meant not in (None, "json"):
        raise click.UsageError(f"--json and -o {meant} exclude one another")
    if flag:
        context.meta[_MEANT] = "json"
    return flag or meant == "json"


# With a JSON document of its own; with its rows as JSON; and what has no rows, but a script.
as_rows: _Decorator = output_option()
as_table: _Decorator = output_option(document=False)
as_script: _Decorator = output_option(formats=("table", "wide", "json"))


def shown_as() -> str:
    """Return the format of the running command's output: one of `-o`'s, or `rows` in a pipe."""
    context = click.get_current_context(silent=True)
    meta = context.meta if context else {}
    return meta.get(_MEANT) or ("table" if sys.stdout.isatty() else "rows")


def is_for_programs() -> bool:
    """Tell whether standard output is for a program, so that words to a person go to standard error."""
    return shown_as() not in ("table", "wide")


def note(text: object, *, tone: str = "") -> None:
    """Print a line for a person: on standard error where standard output is for a program."""
    say(text, err=is_for_programs(), tone=tone, hang=0)


def tenants_option(help: str = "Only this tenant; may be repeated.") -> _Decorator:
    """Take `--tenant` any number of times, as `slugs`; a pattern such as `a*` stands for several tenants."""
    return click.option("--tenant", "slugs", multiple=True, metavar="SLUG", help=help)


def confirm_option(help: str = "Apply the plan with this id; without it, show it.") -> _Decorator:
    """Take the id of a plan, as `confirm`; "" without it."""
    return click.option("--confirm", default="", metavar="PLAN_ID", help=help)


def limit_option(default: int, help: str = "How many, the newest first.", *, most: int | None = None) -> _Decorator:
    """Take a number of lines from 1, as `limit`."""
    return click.option("--limit", type=click.IntRange(1, most), default=default, show_default=True, help=help)


def read_time(option: str, text: str | None, others: str = "") -> datetime | None:
    """Return the time that an option was given in ISO 8601; raises UsageError, naming the option, for any other text.

    `others` names what else the option takes.
    """
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        wanted = f"write {others}, or a time as" if others else "write it as"
        raise UsageError(f"{option} {text!r} is not a time: {wanted} 2026-01-31T08:00:00+00:00") from None


@contextmanager
def open_erp(*, quiet: bool = False, own: str = "") -> Iterator[Erp]:
    """Open the configured ERP and name it on the first line (on standard error where the output is for machines).

    Raises UsageError, before anything else, where the ERP is one that erpkit only reads, and has no `own` of erpkit's.
    """
    with erpkit.open() as erp:
        if own:
            erp.own(own)
        print_target(erp.target, quiet=quiet)
        yield erp


def print_target(target: str, *, quiet: bool = False) -> None:
    """Print what the command works on; on a terminal, what takes longer than a second shows that it goes on."""
    say(f"target: {target}", err=quiet or is_for_programs())
    start_waiting()


def print_errors(errors: Mapping[str, str], *, quiet: bool = False) -> None:
    """Name the tenants that could not be read, with the reason (on standard error where the output is for machines)."""
    for slug, reason in errors.items():
        say(f"! {slug}: {reason}", err=quiet or is_for_programs(), tone=tone_of("warning"), hang=2)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], right: Collection[str] = ()) -> None:
    """Print rows under the names of their columns; those named in `right` hold figures as text."""
    show(Table([Column(name, itemgetter(n), right=name in right) for n, name in enumerate(columns)], rows))


def show(table: Table[Any]) -> None:
    """Print a table as `-o` says: one that fits the terminal, one with all columns, its names, CSV, or rows with tabs."""
    form = shown_as()
    if form not in ("table", "wide"):
        _show_rows(table, form)
        return
    leave_gap()
    leave_gap(after=True)
    if form == "table" and sys.stdout.isatty():
        say_drawn(table)
    else:
        say_drawn(table.rich(), endless=True)


def whole_table(result: Any) -> Table[Any]:
    """Return the table that a program gets of a result: its `whole_table`, where a person gets a shorter one, or its first."""
    found: Table[Any] | None = getattr(result, "whole_table", None)
    if found is not None:
        return found
    if result.tables:
        return result.tables[0]  # type: ignore[no-any-return]
    return Table([Column(name, itemgetter(name)) for name in result.facts], [result.facts])


def leave_gap(*, after: bool = False) -> None:
    """Print an empty line between a table and what follows it; `after` one, remember it."""
    context = click.get_current_context(silent=True)
    meta = context.meta if context else {}
    if after:
        meta[_GAP] = True
    elif meta.pop(_GAP, False) and not is_for_programs():
        say()


def show_done(sentence: object, *rows: Mapping[str, object]) -> None:
    """Tell a person in a sentence what was done; a program gets it as rows, all with the names of the first."""
    if is_for_programs():
        names = rows[0] if rows else ()
        show(Table([Column(name, itemgetter(name)) for name in names], rows, ""))
    note(sentence)


def _show_rows(table: Table[Any], form: str) -> None:
    if not table.rows and table.empty:
        say(table.empty, err=True)
    if form == "csv":
        head, _, rest = table.to_csv().removesuffix("\n").partition("\n")
        meta = click.get_current_context().meta
        lines = [] if meta.get(_HEAD) == head else [head]  # a table that goes on has one head
        meta[_HEAD] = head
        if lines := [*lines, *([rest] if rest else [])]:
            say_script("\n".join(lines))
    elif form == "json":
        say_text(table.to_json())
    elif table.rows:
        say_text("\n".join(table.names() if form == "name" else table.to_lines()))


def show_findings(findings: Sequence[Finding]) -> None:
    """Print the findings of a command that has no other table: as a table of them where it is for a program."""
    if is_for_programs():
        show(Table(_FINDING, [one for cause in group_findings(findings) for one in cause.findings], "No findings."))
    else:
        print_findings(findings)


_FINDING = (
    Column[Finding]("subject", lambda one: one.subject),
    Column[Finding]("severity", lambda one: one.severity),
    Column[Finding]("kind", lambda one: one.kind),
    Column[Finding]("problem", lambda one: one.problem),
    Column[Finding]("remedy", lambda one: one.remedy),
)


def tone_of(severity: str) -> str:
    """Return the colour of a severity."""
    return _COLOURS.get(severity, "dim")


def print_findings(findings: Sequence[Finding], *, quiet: bool = False) -> None:
    """Print findings by cause, the gravest first, with the command that helps (`quiet`: on standard error).

    A command that helps against several, one below the other, stands once, below the last of them.
    """
    err = quiet or is_for_programs()
    if findings and not err:
        leave_gap()
    causes = group_findings(findings)
    remedies = [*(cause.remedy for cause in causes), ""]
    for n, cause in enumerate(causes):
        say(marked(cause), err=err, tone=tone_of(cause.severity), hang=2)
        if remedies[n] and remedies[n] != remedies[n + 1]:
            say(f"    {remedies[n]}", err=err, tone=COMMAND)


def print_verdict(findings: Sequence[Finding], fine: str) -> None:
    """Print findings, and on a terminal that all is `fine` where none is more than advice."""
    print_findings(findings)
    if not exit_code(findings) and not is_for_programs():
        leave_gap()
        say(fine, tone="green", hang=0)


def print_json(value: object, *, indent: int | None = 2) -> None:
    """Print JSON; times and uuids become text."""
    # JSON leaves DEL as it is; every other character that acts is not ASCII, or a control character that it escapes.
    say_text(json.dumps(value, default=str, indent=indent).replace("\x7f", "\\u007f"))
