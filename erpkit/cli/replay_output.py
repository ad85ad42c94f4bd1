"""How replays are printed: plans, runs, audits and shadows, as tables or as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from erpkit.cli.output import print_errors, print_json, print_table, say
from erpkit.events import ReplayPlan, ReplayRecord, ReplayResult, ReplayRun, ShadowDiff, ShadowRecord, WatermillTopic

__all__ = ["bar", "show_diff", "show_plan", "show_records", "show_results", "show_run", "show_shadows", "show_topics"]


def show_plan(plan: ReplayPlan, as_json: bool) -> int:
    """Print what a replay would do, and how to apply it."""
    if as_json:
        steps = [asdict(step) for step in plan.steps]
        facts = {"plan": plan.id, "events": plan.event_count, "target": plan.target and asdict(plan.target)}
        found = {
            "side_effects": plan.side_effects,
            "left_out": plan.left_out,
            "steps": steps,
            "errors": dict(plan.errors),
        }
        print_json(facts | found)
        print_errors(plan.errors, quiet=True)
        return 3 if plan.errors else 0
    print_table(
        ["tenant", "topic", "target" if plan.target else "handler", "events", "offsets", "first", "last"],
        [
            (
                s.tenant,
                s.topic,
                s.handler,
                s.events,
                f"{s.first_offset}–{s.last_offset}",
                _at(s.first_time),
                _at(s.last_time),
            )
            for s in plan.steps
        ],
    )
    for name, does in plan.handlers.items():
        say(f"{name}: {does or 'it does not say what it does'}")
    for name, reason in plan.left_out.items():
        say(f"left out {name}: {reason}")
    print_errors(plan.errors)
    for name in plan.side_effects:
        say(f"! {name} has side effects: {plan.handlers[name] or 'it does not say which'}")
    apply = f"dry run: to apply it, add --confirm {plan.id}" if plan.event_count else "there is nothing to do"
    say(f"plan {plan.id}: {plan.event_count} events; {apply}")
    return 3 if plan.errors else 0


def show_run(run: ReplayRun, plan: ReplayPlan, as_json: bool) -> int:
    """Print what became of a replay; return the exit code: 3 where an event failed, or was dropped by a broker."""
    if as_json:
        print_json(asdict(run))
    else:
        _show_counts(run, plan)
    print_errors(plan.errors, quiet=as_json)
    if run.state == "cancelled":
        if run.plan_id.startswith("replay-"):
            go_on = f"erpkit events replay --resume {run.replay_id} --confirm {run.plan_id}"
            say(f"to go on: {go_on}", err=True)
        return 130
    return 3 if run.failed or run.known or plan.errors else 0


def _show_counts(run: ReplayRun, plan: ReplayPlan) -> None:
    if plan.target is None:
        counts = f"{run.handled} handled, {run.failed} failed, {run.resolved} dead letters resolved"
    else:
        counts = f"{run.handled} sent to {plan.target.broker}, {run.known} that it had already and dropped"
    say(f"replay {run.replay_id} {run.state}: {counts}")
    for failure in run.failures:
        say(f"! {failure.tenant}: {failure.handler} failed on offset {failure.offset}: {failure.error}")
    if run.known:
        say("! to send those all the same, under other message ids: plan it with --again")


def show_records(records: Sequence[ReplayRecord], errors: Mapping[str, str], as_json: bool) -> None:
    """Print earlier replays, and the tenants whose could not be read."""
    if as_json:
        empty = dict.fromkeys(field.name for field in fields(ReplayRecord))
        unread = [{**empty, "tenant": slug, "error": reason} for slug, reason in errors.items()]
        print_json([*map(asdict, records), *unread])
        return
    print_table(
        ["tenant", "replay", "to", "state", "done", "failed", "planned", "by", "started"],
        [
            (
                r.tenant,
                r.replay_id,
                r.target or "handlers",
                r.state,
                r.handled,
                r.failed,
                r.planned,
                r.requested_by,
                _at(r.started_at),
            )
            for r in records
        ],
    )


def show_results(results: Mapping[str, Sequence[ReplayResult]], as_json: bool) -> None:
    """Print what became of each event, by tenant."""
    if as_json:
        print_json([{"tenant": slug, **asdict(one)} for slug, found in results.items() for one in found])
        return
    print_table(
        ["tenant", "offset", "uuid", "to", "state", "error"],
        [(slug, r.offset, r.uuid, r.handler, r.state, r.error or "") for slug, found in results.items() for r in found],
    )


def show_shadows(found: Sequence[ShadowRecord], as_json: bool) -> None:
    """Print the shadows that stand in the database."""
    if as_json:
        print_json([asdict(shadow) for shadow in found])
        return
    rows = [(s.schema, s.tenant, ", ".join(s.handlers), s.events, _at(s.started_at)) for s in found]
    print_table(["schema", "tenant", "handlers", "events", "started"], rows)


def show_topics(topics: Sequence[WatermillTopic], as_json: bool) -> None:
    """Print the topics in Watermill's tables."""
    if as_json:
        print_json([asdict(topic) for topic in topics])
        return
    print_table(
        ["tenant", "topic", "events", "held back", "first", "last", "waiting, by group"],
        [
            (
                t.tenant, t.topic, t.events, t.held_back, _at(t.first_time), _at(t.last_time),
                ", ".join(f"{group.name}: {group.lag}" for group in t.groups),
            )
            for t in topics
        ],
    )  # fmt: skip


def show_diff(diff: ShadowDiff, as_json: bool) -> int:
    """Print how a shadow differs from the live projection, and how to put it in its place."""
    if as_json:
        print_json({"swap": diff.id, "shadow": diff.shadow.schema, "tables": [asdict(table) for table in diff.tables]})
        return 3 if diff.count else 0
    print_table(
        ["table", "live rows", "shadow rows", "only live", "only shadow", "differ"],
        [(t.table, t.live_rows, t.shadow_rows, t.only_live, t.only_shadow, t.differing) for t in diff.tables],
    )
    say(f"{diff.shadow.events} events in {diff.shadow.schema}, {diff.shadow.failed} failed")
    say(f"swap {diff.id}: {diff.count} rows; to apply it: --swap --confirm {diff.id}")
    return 3 if diff.count else 0


def bar(total: int) -> Any:
    """Return a progress bar of `total` events."""
    from erpkit.ui.progress import progress_bar  # noqa: PLC0415 - slow to import

    return progress_bar(total, "events")


def _at(moment: Any) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment else "–"
