"""erpkit events replay: events of the past to handlers, a broker, a file or a shadow; and what became of earlier replays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any
from uuid import UUID

import click

from erpkit.cli.helping import Command
from erpkit.cli.output import (
    as_rows,
    confirm_option,
    is_for_programs,
    limit_option,
    note,
    open_erp,
    print_errors,
    print_findings,
    print_json,
    read_time,
    say,
    show,
    show_done,
    tenants_option,
)
from erpkit.cli.planning import apply_plan, print_or_apply, show_or_apply, show_result, this_command
from erpkit.errors import UsageError
from erpkit.events import ImportPlan, ReplayPlan, ReplayRecord, Selection, ShadowDiff
from erpkit.events.replay.files import ImportResult
from erpkit.events.replay.request import ReplayReport
from erpkit.events.replay.swap import SwapResult
from erpkit.finding import exit_code
from erpkit.plan import Plan


@click.command(cls=Command)
@tenants_option()
@click.option("--topic", default="*", show_default=True, help="Only these topics: a pattern, such as 'billing.*'.")
@click.option("--from-offset", type=int, help="Only from this offset in the log.")
@click.option("--to-offset", type=int, help="Only up to this offset.")
@click.option("--since", help="Only those recorded at or after this time, such as 2026-01-31T08:00:00+00:00.")
@click.option("--until", help="Only those recorded before this time.")
@click.option("--uuid", "uuids", multiple=True, type=click.UUID, help="Only this event; may be repeated.")
@click.option("--correlation-id", metavar="ID", help="Only events that this command caused.")
@click.option("--handler", "handlers", multiple=True, help="Only this handler; may be repeated.")
@click.option("--side-effects", multiple=True, metavar="HANDLER", help="Use this handler although it has side effects.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Events per second at most.")
@click.option(
    "--workers", type=click.IntRange(1, 16), default=1, show_default=True,
    help="Threads that hand over, each one tenant's events at a time.",
)  # fmt: skip
@click.option("--resume", "resumed", type=click.UUID, metavar="REPLAY_ID", help="Resume a replay that was stopped.")
@click.option(
    "--to",
    "target",
    metavar="TARGET",
    help="Publish them (broker, broker:SUBJECT), or write them to a file of JSON lines (file:PATH).",
)
@click.option(
    "--again", is_flag=True, help="With --to broker: send events that it has already, too, under other message ids."
)
@click.option("--from", "source", metavar="file:PATH", help="Append a file's events to the tenant's log.")
@click.option("--watermill", "from_watermill", is_flag=True, help="Read Watermill's own tables in place of the log.")
@click.option("--shadow", is_flag=True, help="Rebuild the handler's projection beside the live one, and compare.")
@click.option("--resume-shadow", is_flag=True, help="With --shadow: resume one that was stopped.")
@click.option("--swap", is_flag=True, help="Put the shadow in the live projection's place.")
@confirm_option()
@as_rows
def replay(
    slugs: tuple[str, ...], topic: str, from_offset: int | None, to_offset: int | None, since: str | None, until: str | None,
    uuids: tuple[UUID, ...], correlation_id: str | None, handlers: tuple[str, ...], side_effects: tuple[str, ...],
    rate: float | None, workers: int, resumed: UUID | None, target: str | None, again: bool, source: str | None, from_watermill: bool,
    shadow: bool, resume_shadow: bool, swap: bool, confirm: str, as_json: bool,
) -> int:  # fmt: skip
    """Hand events of the past to handlers once more, or elsewhere; Ctrl-C ends it after the batch in flight."""
    if sum(map(bool, (resumed, target, source, from_watermill, shadow or swap))) > 1:
        raise UsageError("--resume, --to, --from, --watermill and --shadow or --swap exclude one another")
    if resume_shadow and not shadow:
        raise UsageError("--resume-shadow goes with --shadow")
    if target and target.partition(":")[0] not in {"broker", "file"}:
        raise UsageError(f"--to {target!r} is not a target: write broker, broker:SUBJECT or file:PATH")
    chosen: dict[str, Any] = {
        "topic": topic, "first_offset": from_offset, "last_offset": to_offset, "since": read_time("--since", since),
        "until": read_time("--until", until), "uuids": uuids, "correlation_id": correlation_id,
    }  # fmt: skip
    selection = Selection(**chosen)
    if (target or "").startswith("file:"):
        if again:
            raise UsageError("again is for a replay to a broker: leave it out, or say where to send the events")
        return _export(slugs, selection, _path("--to", target or ""), as_json)
    with open_erp(quiet=as_json, own="event log") as erp:
        if source:
            tenant = _one("--from", "--tenant", slugs)
            return _import(erp.events.import_from(_path("--from", source), tenant), confirm, as_json)
        if shadow or swap:
            tenant, handler = _one("--shadow", "--tenant", slugs), _one("--shadow", "--handler", handlers)
            plan = erp.events.rebuild(tenant, handler, rate=rate, resume=resume_shadow, build=not swap)
            return _rebuild(plan, confirm if swap else "", as_json)
        request: dict[str, Any] = {
            "handlers": handlers, "side_effects": side_effects, "send_to": target or "", "again": again,
            "watermill": from_watermill, "resume": str(resumed or ""),
        }  # fmt: skip
        return _replay(erp.events.replay(slugs, rate=rate, workers=workers, **chosen, **request), confirm, as_json)


@click.command(cls=Command)
@tenants_option()
@click.option(
    "--results", "of", type=click.UUID, metavar="REPLAY_ID", help="Show the result of each event of this replay."
)
@limit_option(50, "With --results: of each tenant.")
@as_rows
def replays(slugs: tuple[str, ...], of: UUID | None, limit: int, as_json: bool) -> int:
    """List earlier replays: who asked, what came of them, and which can be resumed; or the events of one, failures first."""
    with open_erp(quiet=as_json, own="event log") as erp:
        found = erp.events.replay_results(of, slugs, limit) if of else erp.events.replays(slugs)
    print_errors(found.errors, quiet=True)
    if not as_json:
        show(found.result_table if of else found.table)
    elif of:
        print_json([{"tenant": slug, **asdict(one)} for slug, results in found.results.items() for one in results])
    else:
        empty = dict.fromkeys(field.name for field in fields(ReplayRecord))
        unread = [{**empty, "tenant": slug, "error": reason} for slug, reason in found.errors.items()]
        print_json([*map(asdict, found.records), *unread])
    return exit_code(found.findings)


@click.command(cls=Command)
@click.option("--drop", metavar="SCHEMA", help="Drop this one.")
@as_rows
def shadows(drop: str | None, as_json: bool) -> None:
    """List the shadows that stand in the database, those that a crash left behind too."""
    with open_erp(quiet=as_json, own="event log") as erp:
        if drop:
            erp.events.drop_shadow(drop)
        found = erp.events.shadows()
    if as_json:
        print_json([asdict(shadow) for shadow in found.rows])
    else:
        show(found)


@click.command(cls=Command)
@tenants_option()
@as_rows
def watermill(slugs: tuple[str, ...], as_json: bool) -> int:
    """List the topics in Watermill's own tables, with the lag of each consumer group."""
    with open_erp(quiet=as_json, own="event log") as erp:
        found = erp.events.watermill(slugs)
    if as_json:
        print_json([asdict(topic) for topic in found.topics])
    else:
        show(found.table)
    print_findings(found.findings, quiet=as_json)
    return exit_code(found.findings)


def _export(slugs: Sequence[str], selection: Selection, path: Path, as_json: bool) -> int:
    with open_erp(quiet=as_json, own="event log") as erp:
        written = erp.events.export_to(path, slugs, selection)
    if as_json:
        print_json({"path": path, "events": written.events})
    else:
        show_done(written, {"file": str(path), "events": written.events})
    return 0


def _import(plan: Plan[ImportPlan, ImportResult], confirm: str, as_json: bool) -> int:
    if not as_json:
        return show_or_apply(plan, confirm, this_command())

    def planned(record: ImportPlan) -> dict[str, object]:
        return {"plan": record.id, "events": record.event_count, "new": record.new, "known": record.known}

    return print_or_apply(plan, confirm, planned, lambda result: {"plan": plan.id, "appended": result.appended})


def _rebuild(plan: Plan[ShadowDiff, SwapResult], confirm: str, as_json: bool) -> int:
    if confirm and as_json:
        say(str(apply_plan(plan, confirm)), err=True)
        return 0
    if not as_json:
        again = this_command().replace(" --resume-shadow", "").replace(" --shadow", " --swap")
        return show_or_apply(plan, confirm, again)
    diff = plan.record
    print_json({"swap": diff.id, "shadow": diff.shadow.schema, "tables": [asdict(table) for table in diff.differences]})
    return 3 if diff.count else 0


def _replay(plan: Plan[ReplayPlan, ReplayReport], confirm: str, as_json: bool) -> int:
    for slug, status in plan.record.skipped.items():
        say(f"skipped {slug}: {status}", err=as_json or is_for_programs())
    if not confirm and not as_json:
        if is_for_programs():  # whose rows are the events
            for handler, does, *_ in plan.record.handler_table.rows:
                note(f"{handler}: {does}")
        return show_or_apply(plan, "", this_command())
    if as_json:
        print_errors(plan.record.errors, quiet=True)
    if not confirm:
        print_json(_plan_document(plan.record))
        return exit_code(plan.record.findings)
    report: ReplayReport = apply_plan(plan, confirm)
    if as_json:
        print_json(asdict(report.run))
    else:
        show_result(report)
    if report.go_on:
        say(f"to resume: {report.go_on}", err=True)
    return 130 if report.run.state == "cancelled" else exit_code(report.findings)


def _plan_document(plan: ReplayPlan) -> dict[str, object]:
    return {
        "plan": plan.id,
        "events": plan.event_count,
        "target": plan.target and asdict(plan.target),
        "side_effects": plan.side_effects,
        "left_out": plan.left_out,
        "steps": [asdict(step) for step in plan.steps],
        "errors": dict(plan.errors),
    }


def _one(what: str, option: str, values: Sequence[Any]) -> Any:
    if len(values) != 1:
        raise UsageError(f"{what} needs exactly one {option}, not {len(values):,}")
    return values[0]


def _path(option: str, text: str) -> Path:
    kind, _, path = text.partition(":")
    if kind != "file" or not path:
        raise UsageError(f"{option} {text!r} is not a file: write it as file:PATH")
    return Path(path)
