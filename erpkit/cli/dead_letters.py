"""erpkit events dead-letters: events that a handler failed on, found, shown, retried and discarded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime
from functools import wraps
from typing import Any, get_args
from uuid import UUID

import click

from erpkit.cli.output import as_json, open_database, print_errors, print_json, print_table, say
from erpkit.config import Settings
from erpkit.database import Connection, Database, Tenant
from erpkit.errors import UsageError
from erpkit.events import (
    DeadLetter,
    DeadLetterCount,
    DeadLetterDetail,
    LetterPlan,
    LetterRun,
    LetterSelection,
    count_dead_letters,
    list_dead_letters,
    plan_discard,
    plan_retry,
    run_discard,
    run_retry,
    show_dead_letter,
    sum_counts,
)
from erpkit.events.causes import Dimension
from erpkit.events.letter_plan import choose_letters
from erpkit.modules import Registry, load_modules
from erpkit.tenants import find_tenants

__all__ = ["command"]

_tenants = click.option("--tenant", "slugs", multiple=True, metavar="SLUG", help="Only this tenant; may be repeated.")
_confirm = click.option(
    "--confirm", default="", metavar="PLAN_ID", help="Apply the plan with this id; without it, show it."
)


def _selection(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that choose letters, and hand them over as one `selection`."""

    @wraps(function)
    def with_selection(
        *, handler: str, topic: str, cause: str, uuids: tuple[UUID, ...], offsets: tuple[int, ...], since: str | None,
        until: str | None, **others: Any,
    ) -> Any:  # fmt: skip
        moments = _moment("--since", since), _moment("--until", until)
        return function(selection=LetterSelection(handler, topic, cause, uuids, offsets, *moments), **others)

    for option in (
        click.option("--until", help="Failed before."),
        click.option("--since", help="Failed at or after: 2026-01-31T08:00:00+00:00"),
        click.option("--offset", "offsets", type=int, multiple=True, help="Only the event here; may be repeated."),
        click.option("--uuid", "uuids", type=click.UUID, multiple=True, help="Only this event; may be repeated."),
        click.option("--cause", default="", metavar="TEXT", help="A part of the error, or of its cause."),
        click.option("--topic", default="*", show_default=True, help="Pattern of topics, such as billing.*"),
        click.option("--handler", default="*", show_default=True, help="Pattern of handlers."),
        _tenants,
    ):
        with_selection = option(with_selection)
    return with_selection


@click.group("dead-letters")
def command() -> None:
    """Events that a handler failed on."""


@command.command("list")
@_selection
@as_json
def list_(slugs: tuple[str, ...], selection: LetterSelection, as_json: bool) -> int:
    """List open dead letters; exit code 3 if there are any, or a tenant cannot be read."""
    errors: dict[str, str] = {}
    with open_database(quiet=as_json) as database, database.connection() as connection:
        found = list_dead_letters(connection, _find(connection, slugs), errors)
    letters, _ = choose_letters(found, selection, None)
    if as_json:
        print_json([*map(asdict, letters), *_unread(DeadLetter, errors)])
    elif not letters:
        say("no dead letters" if not errors else "no dead letters in the tenants that could be read")
    else:
        print_table(
            ["tenant", "offset", "topic", "handler", "error"],
            [(d.tenant, d.offset, d.topic, d.handler, d.error) for d in letters],
        )
    print_errors(errors, quiet=as_json)
    return 3 if letters or errors else 0


@command.command()
@_tenants
@click.option("--by", type=click.Choice(get_args(Dimension)), help="Add them up by this alone.")
@as_json
def count(slugs: tuple[str, ...], by: Dimension | None, as_json: bool) -> int:
    """Count open dead letters; errors that differ only in numbers or values are one cause. Exit code 3 if there are any."""
    errors: dict[str, str] = {}
    with open_database(quiet=as_json) as database, database.connection() as connection:
        counts = count_dead_letters(connection, _find(connection, slugs), errors)
    sums = sum_counts(counts, by) if by else {}
    if as_json:
        listed = [*({**asdict(one), "kind": one.kind} for one in counts), *_unread(DeadLetterCount, errors)]
        print_json((sums | ({"errors": errors} if errors else {})) if by else listed)
    elif not counts:
        say("no dead letters" if not errors else "no dead letters in the tenants that could be read")
    elif by:
        print_table([by, "letters"], list(sums.items()))
    else:
        print_table(
            ["letters", "cause", "topic", "handler", "tenant", "last"],
            [(c.letters, c.cause, c.topic, c.handler, c.tenant, f"{c.last_failed_at:%Y-%m-%d %H:%M}") for c in counts],
        )
    print_errors(errors, quiet=as_json)
    return 3 if counts or errors else 0


@command.command()
@click.argument("tenant")
@click.argument("offset", type=int)
@click.option("--handler", default="", help="Which one's, where several failed on the event.")
@click.option("--payload", is_flag=True, help="Show the business data in the event, too.")
@as_json
def show(tenant: str, offset: int, handler: str, payload: bool, as_json: bool) -> None:
    """Show one dead letter, open or not, with its event's metadata."""
    with open_database(quiet=as_json) as database:
        with database.connection() as connection:
            (found,) = _find(connection, [tenant])
        facts = _facts(show_dead_letter(database, found, offset, handler, payload=payload), payload)
    if as_json:
        print_json(facts)
    else:
        print_table(["", ""], [(name, value) for name, value in facts.items() if value is not None])


@command.command()
@_selection
@_confirm
@as_json
def retry(slugs: tuple[str, ...], selection: LetterSelection, confirm: str, as_json: bool) -> int:
    """Hand dead letters to their handlers once more; exit code 3 if some fail again.

    A retry is the first success: the failed attempts left nothing behind, so a handler's side effects are wanted here.
    """

    def plan(connection: Connection, tenants: Sequence[Tenant], registry: Registry) -> LetterPlan:
        return plan_retry(connection, tenants, registry, selection)

    return _plan_and_run(slugs, plan, run_retry, confirm, as_json)


@command.command()
@_selection
@click.option("--reason", required=True, help="Why; it is kept with the letters.")
@_confirm
@as_json
def discard(slugs: tuple[str, ...], selection: LetterSelection, reason: str, confirm: str, as_json: bool) -> int:
    """Give dead letters up: what the handler would have done is never done."""

    def plan(connection: Connection, tenants: Sequence[Tenant], _: Registry) -> LetterPlan:
        return plan_discard(connection, tenants, reason, selection)

    return _plan_and_run(slugs, plan, run_discard, confirm, as_json)


def _plan_and_run(
    slugs: tuple[str, ...],
    plan_of: Callable[[Connection, Sequence[Tenant], Registry], LetterPlan],
    run_of: Callable[[Database, Registry, LetterPlan, str], LetterRun],
    confirm: str,
    as_json: bool,
) -> int:
    registry = load_modules(Settings.from_env())
    with open_database(quiet=as_json) as database:
        with database.connection() as connection:
            plan = plan_of(connection, _find(connection, slugs), registry)
        if not confirm:
            _print_plan(plan, as_json)
            return 3 if plan.errors else 0
        run = run_of(database, registry, plan, confirm)
    _print_run(run, as_json)
    print_errors(plan.errors, quiet=as_json)
    return 3 if run.failed or plan.errors else 0


def _find(connection: Connection, slugs: Sequence[str]) -> list[Tenant]:
    return find_tenants(connection, slugs, Settings.from_env().tenants_query)


def _unread(record: type[DeadLetter | DeadLetterCount], errors: Mapping[str, str]) -> list[dict[str, object]]:
    """Return an entry for each tenant that could not be read: that of a record in which only the tenant and the error are known."""
    empty = dict.fromkeys(field.name for field in fields(record))
    return [{**empty, "tenant": slug, "error": reason} for slug, reason in errors.items()]


def _print_plan(plan: LetterPlan, as_json: bool) -> None:
    if as_json:
        facts = {"id": plan.id, "action": plan.action, "letters": len(plan.letters), "parked": plan.parked}
        counts = [asdict(one) for one in plan.counts()]
        print_json(
            {
                **facts,
                "counts": counts,
                "offsets": _offsets(plan),
                "left_out": dict(plan.left_out),
                "errors": dict(plan.errors),
            }
        )
        return
    if not plan.is_empty:
        print_table(
            ["letters", "tenant", "handler", "cause"],
            [(c.letters, c.tenant, c.handler, c.cause) for c in plan.counts()],
        )
    for name, reason in plan.left_out.items():
        say(f"left out {name}: {reason}")
    say(f"plan {plan.id}: {plan.action} {len(plan.letters)} dead letter(s), {plan.parked} event(s) parked behind them")
    if not plan.is_empty:
        say(f"dry run: to apply it, add --confirm {plan.id}")


def _print_run(run: LetterRun, as_json: bool) -> None:
    if as_json:
        print_json({"id": run.plan_id, "results": [asdict(result) for result in run.results]})
        return
    for result in run.results:
        if result.state in ("failed", "left alone"):
            mark = "!" if result.state == "failed" else "-"
            place = f"{result.tenant}: {result.handler}, offset {result.offset}"
            say(f"{mark} {place}: {result.state}: {result.detail}")
    states = {state: run.count(state) for state in ("handled", "discarded", "failed", "left alone")}
    shown = ", ".join(f"{number} {state}" for state, number in states.items() if number) or "nothing to do"
    say(f"{run.plan_id}: {shown}; {run.count('handled', was_parked=True)} parked event(s) handled after them")


def _offsets(plan: LetterPlan) -> dict[str, list[int]]:
    return {t.slug: [letter.offset for letter in plan.letters if letter.tenant == t.slug] for t in plan.tenants}


def _facts(detail: DeadLetterDetail, payload: bool) -> dict[str, object]:
    facts = asdict(detail)
    if not payload:
        del facts["payload"]
    return {**facts.pop("letter"), **facts}


def _moment(option: str, text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        raise UsageError(f"{option} {text!r} is no time: write it as 2026-01-31T08:00:00+00:00") from None
