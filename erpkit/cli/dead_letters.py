"""erpkit events dead-letters: events that a handler failed on, found, shown, retried and discarded."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, fields
from functools import wraps
from typing import Any, get_args
from uuid import UUID

import click

from erpkit.cli.helping import Group
from erpkit.cli.output import (
    COMMAND,
    as_rows,
    confirm_option,
    is_for_programs,
    leave_gap,
    open_erp,
    print_errors,
    print_findings,
    print_json,
    read_time,
    say,
    tenants_option,
)
from erpkit.cli.output import show as show_table
from erpkit.cli.planning import print_or_apply, show_or_apply, this_command
from erpkit.errors import UsageError
from erpkit.events import DeadLetter, DeadLetterCount, LetterPlan, LetterRun
from erpkit.events.dead_letters import Dimension
from erpkit.events.letter_plan import OpenLetters
from erpkit.finding import NO_TENANTS, exit_code
from erpkit.plan import Plan


def _selection(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that choose letters, and hand them over as one `selection` by name."""

    @wraps(function)
    def with_selection(
        *, handler: str, topic: str, cause: str, uuids: tuple[UUID, ...], offsets: tuple[int, ...], since: str | None,
        until: str | None, **others: Any,
    ) -> Any:  # fmt: skip
        selection = {
            "handler": handler, "topic": topic, "cause": cause, "uuids": uuids, "offsets": offsets,
            "since": read_time("--since", since), "until": read_time("--until", until),
        }  # fmt: skip
        return function(selection=selection, **others)

    decorated: Callable[..., Any] = with_selection
    for option in (
        click.option("--until", help="Only those that failed before this time."),
        click.option(
            "--since", help="Only those that failed at or after this time, such as 2026-01-31T08:00:00+00:00."
        ),
        click.option(
            "--offset", "offsets", type=int, multiple=True, help="Only the event at this offset; may be repeated."
        ),
        click.option("--uuid", "uuids", type=click.UUID, multiple=True, help="Only this event; may be repeated."),
        click.option("--cause", default="", metavar="TEXT", help="A part of the error, or of its cause."),
        click.option(
            "--topic", default="*", show_default=True, help="Only these topics: a pattern, such as 'billing.*'."
        ),
        click.option("--handler", default="*", show_default=True, help="Only these handlers: a pattern."),
        tenants_option(),
    ):
        decorated = option(decorated)
    return decorated


@click.group("dead-letters", cls=Group)
def command() -> None:
    """Find, retry, mend and discard the events that a handler failed on."""


@command.command("list")
@_selection
@as_rows
def list_(slugs: tuple[str, ...], selection: dict[str, Any], as_json: bool) -> int:
    """List open dead letters; exit code 3 if there are any, a tenant cannot be read, or there is none."""
    with open_erp(quiet=as_json, own="event log") as erp:
        found = erp.events.dead_letters(slugs, **selection)
    if as_json:
        print_json([*map(asdict, found.letters), *_unread(DeadLetter, found.errors)])
    else:
        show_table(found.table)
    return _end(found, as_json, this_command().replace("dead-letters list", "dead-letters retry", 1))


@command.command()
@tenants_option()
@click.option("--by", type=click.Choice(get_args(Dimension)), help="Count by this alone.")
@as_rows
def count(slugs: tuple[str, ...], by: Dimension | None, as_json: bool) -> int:
    """Count open dead letters; errors that differ only in numbers or values are one cause. Exit code 3 if there are any."""
    with open_erp(quiet=as_json, own="event log") as erp:
        found = erp.events.dead_letters(slugs)
    if not as_json:
        show_table(found.count(by) if by else found.causes)
    elif by:
        print_json(dict(found.count(by).rows) | ({"errors": found.errors} if found.errors else {}))
    else:
        counts = [{**asdict(one), "kind": one.kind} for one in found.counts]
        print_json([*counts, *_unread(DeadLetterCount, found.errors)])
    return _end(found, as_json, shlex.join([*_COMMAND, "retry", *_options("--tenant", slugs)]))


_COMMAND = ("erpkit", "events", "dead-letters")


def _options(name: str, values: Iterable[object]) -> list[str]:
    return [text for value in values for text in (name, str(value))]


def _end(found: OpenLetters, as_json: bool, retry: str) -> int:
    """Say what was not read and what to do next, with the command that retries the letters, and return the exit code."""
    print_errors(found.errors, quiet=as_json)
    if not found.tenants:
        print_findings([NO_TENANTS], quiet=as_json)
    if found.letters and not as_json and not is_for_programs():
        one = found.letters[0]
        leave_gap()
        say("to look at one, and to retry once the cause is fixed:")
        say(f"    {shlex.join([*_COMMAND, 'show', one.tenant, str(one.offset)])}", tone=COMMAND)
        say(f"    {retry}", tone=COMMAND)
        say("or step by step, with a mend:")
        say("    erpkit run runbooks/poisoned_message -p rehearse false", tone=COMMAND)
    return exit_code(found.findings)


@command.command()
@click.argument("tenant")
@click.argument("offset", type=int)
@click.option("--handler", default="", help="The handler, where several failed on the event.")
@click.option("--payload", is_flag=True, help="Show the business data in the event, too.")
@as_rows
def show(tenant: str, offset: int, handler: str, payload: bool, as_json: bool) -> None:
    """Show one dead letter, open or not, with its event's metadata."""
    with open_erp(quiet=as_json, own="event log") as erp:
        detail = erp.events.dead_letter(tenant, offset, handler, payload=payload)
    if not as_json:
        show_table(detail.table)
        if detail.status == "open" and not is_for_programs():
            _say_next(detail.letter, payload)
        return
    facts = asdict(detail)
    if not payload:
        del facts["payload"]
    print_json({**facts.pop("letter"), **facts})


def _say_next(letter: DeadLetter, has_payload: bool) -> None:
    """Say what can be done about a letter that is open."""
    one = [letter.tenant, str(letter.offset)]
    chosen = [*_options("--tenant", one[:1]), *_options("--handler", [letter.handler]), *_options("--offset", one[1:])]
    leave_gap()
    see = "" if has_payload else "see the business data in it, to "
    say(f"to {see}retry it once the cause is mended, to correct a value, or to give it up:", hang=0)
    for words in (
        *([] if has_payload else [["show", *one, "--payload"]]),
        ["retry", *chosen],
        ["edit", *one, "--set", "FIELD=VALUE", "--reason", "TEXT"],
        ["discard", *chosen, "--reason", "TEXT"],
    ):
        say(f"    {shlex.join([*_COMMAND, *words])}", tone=COMMAND)


@command.command()
@click.argument("tenant")
@click.argument("offset", type=int)
@click.option("--handler", default="", help="The handler, where several failed on the event.")
@click.option(
    "--set", "values", multiple=True, required=True, metavar="FIELD=VALUE",
    help="Another value, as JSON or plain text; FIELD may be a path such as lines.0.amount. May be repeated.",
)  # fmt: skip
@click.option("--reason", required=True, help="Why; it is kept with the edit.")
@click.option("--payload", is_flag=True, help="Show the values before and after, too.")
@confirm_option()
@as_rows
def edit(
    tenant: str, offset: int, handler: str, values: tuple[str, ...], reason: str, payload: bool, confirm: str, as_json: bool
) -> int:  # fmt: skip
    """Change the payload with which a dead letter is retried; the event in the log stays as it is."""
    given = dict(map(_value, values))
    with open_erp(quiet=as_json, own="event log") as erp:
        plan = erp.events.edit_letter(tenant, offset, handler, values=given, reason=reason, payload=payload)
        if not as_json:
            return show_or_apply(plan, confirm, this_command())
        document = {
            "id": plan.id,
            "handler": plan.handler,
            "offset": offset,
            "fields": [row[0] for row in plan.changes],
        }
        return print_or_apply(plan, confirm, lambda _: document, lambda _: {**document, "edited": True})


@command.command()
@_selection
@confirm_option()
@as_rows
def retry(slugs: tuple[str, ...], selection: dict[str, Any], confirm: str, as_json: bool) -> int:
    """Hand dead letters to their handlers once more; exit code 3 if some fail again.

    A retry is the first success: the failed attempts left nothing behind, so a handler's side effects are wanted here.
    """
    with open_erp(quiet=as_json, own="event log") as erp:
        return _decide(erp.events.dead_letters(slugs, **selection).retry(), confirm, as_json)


@command.command()
@_selection
@click.option("--reason", required=True, help="Why; it is kept with the letters.")
@confirm_option()
@as_rows
def discard(slugs: tuple[str, ...], selection: dict[str, Any], reason: str, confirm: str, as_json: bool) -> int:
    """Give dead letters up: what the handler would have done is never done."""
    with open_erp(quiet=as_json, own="event log") as erp:
        return _decide(erp.events.dead_letters(slugs, **selection).discard(reason), confirm, as_json)


def _value(text: str) -> tuple[str, Any]:
    """Return a field and its new value: JSON, or else the text itself."""
    name, found, value = text.partition("=")
    if not (name and found):
        raise UsageError(f"--set {text!r} is not FIELD=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _decide(plan: Plan[LetterPlan, LetterRun], confirm: str, as_json: bool) -> int:
    if not as_json:
        return show_or_apply(plan, confirm, this_command())
    print_errors(plan.record.errors, quiet=True)
    return print_or_apply(plan, confirm, _plan_document, _run_document)


def _plan_document(plan: LetterPlan) -> dict[str, object]:
    slugs = [tenant.slug for tenant in plan.tenants]
    return {
        "id": plan.id,
        "action": plan.action,
        "letters": len(plan.letters),
        "parked": plan.parked,
        "counts": [asdict(one) for one in plan.counts()],
        "offsets": {slug: [letter.offset for letter in plan.letters if letter.tenant == slug] for slug in slugs},
        "left_out": dict(plan.left_out),
        "errors": dict(plan.errors),
    }


def _run_document(run: LetterRun) -> dict[str, object]:
    return {"id": run.plan_id, "results": [asdict(result) for result in run.results]}


def _unread(record: type[DeadLetter | DeadLetterCount], errors: Mapping[str, str]) -> list[dict[str, object]]:
    """Return an entry for each tenant that could not be read: that of a record in which only the tenant and the error are known."""
    empty = dict.fromkeys(field.name for field in fields(record))
    return [{**empty, "tenant": slug, "error": reason} for slug, reason in errors.items()]
