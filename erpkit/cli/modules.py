"""erpkit modules: list, check and graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

import erpkit
from erpkit.cli.helping import Group
from erpkit.cli.output import (
    as_rows,
    is_for_programs,
    note,
    output_option,
    print_json,
    print_target,
    say,
    say_script,
    show,
    show_done,
    shown_as,
    tone_of,
)
from erpkit.finding import marked
from erpkit.modules import ModuleCheck, Rules, cut_edges, find_impact
from erpkit.modules.baseline import write_baseline
from erpkit.modules.reports import as_annotations, as_document, as_sarif, describe_component
from erpkit.modules.rules import BASELINE
from erpkit.modules.wiring import shorten_path
from erpkit.plural import count_of

_SHOWN = 5  # pieces of evidence a finding

_odoo = click.option(
    "--odoo", multiple=True, type=click.Path(path_type=Path), metavar="DIR",
    help="Read Odoo's addons in this folder instead; may be repeated. Manifests are parsed, and not executed.",
)  # fmt: skip
_no_database = click.option("--no-database", is_flag=True, help="Do not read the database.")


def _reading(function: Callable[..., Any]) -> Callable[..., Any]:
    return _odoo(_no_database(function))


@click.group("modules", cls=Group)
def command() -> None:
    """Check what the modules of the ERP declare against what code, queries and the database say."""


@command.command("list")
@as_rows
def list_(as_json: bool) -> None:
    """List the modules in load order."""
    modules = erpkit.open().modules
    if as_json:
        print_json(
            [{"name": m.name, "dependencies": list(m.dependencies), "migrations": m.migrations} for m in modules]
        )
        return
    show(modules.table)


@command.command()
@_reading
@click.option(
    "--layers",
    default="",
    metavar="TEXT",
    help="The layers of the ERP, the highest first: 'billing > sales, inventory > catalog*'.",
)
@click.option("--strict", is_flag=True, help="What was not read is an error.")
@click.option(
    "--baseline", is_flag=True, help="Write what is found to the baseline: from then on only new findings fail."
)
@output_option("sarif", "github")
def check(
    odoo: tuple[Path, ...], no_database: bool, layers: str, strict: bool, baseline: bool, as_json: bool
) -> int:  # fmt: skip
    """Look for cycles, undeclared couplings, and events without a handler; exit code 3 if there are findings.

    It goes by the rules in [tool.erpkit.modules] of the pyproject.toml or modules.toml.
    """
    form = shown_as()
    modules = erpkit.open().modules
    result = modules.check(odoo=odoo, layers=layers, database=not no_database, strict=strict, baseline=not baseline)
    _tell_source(result, quiet=is_for_programs())
    if baseline:
        return _write_baseline(modules.rules(), result)
    if as_json or form == "sarif":
        print_json(as_document(result) if as_json else as_sarif(result))
    elif form == "github":
        for line in as_annotations(result):
            say_script(line)
    else:
        _say_findings(result)
    return result.summary.exit_code


def _say_findings(result: ModuleCheck) -> None:
    note(f"load order: {_listed(result.order) or result.load_order}")
    if result.outside:
        note(f"outside of what was read: {_listed(result.outside)}")
    if is_for_programs():
        show(replace(result.finding_table, empty=""))
    for finding in () if is_for_programs() else result.findings:
        say(marked(finding), tone=tone_of(finding.severity), hang=2)
        for line in finding.evidence[:_SHOWN]:
            say(f"    {line}")
        if len(finding.evidence) > _SHOWN:
            say(f"    … and {len(finding.evidence) - _SHOWN:,} more")
    if result.known:
        note(f"{count_of(result.known, 'finding is', 'findings are')} in the baseline")
    if not result.findings:
        note("no new findings" if result.known else "no findings", tone="green")


def _write_baseline(rules: Rules, result: ModuleCheck) -> int:
    """Write the baseline; what was not read, and what start-up refuses, fails all the same."""
    path = rules.baseline or Path(BASELINE)
    count = write_baseline(path, result.findings, result.never)
    told = f"written: {shorten_path(path)}: {count_of(count, 'finding')}"
    show_done(told, {"file": str(path), "findings": count})
    left = [finding for finding in result.findings if finding.kind in result.never and finding.severity != "info"]
    for finding in left:
        note(marked(finding), tone=tone_of(finding.severity))
    return 3 if left else 0


@command.command()
@_reading
@click.option("--format", "form", type=click.Choice(["svg", "mermaid", "json"]), default="mermaid", show_default=True,
              help="How to draw it.")  # fmt: skip
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write to a file.")
@click.option("--impact", default="", metavar="NAME", help="Who depends on this module, directly and in the end.")
@click.option("--what-if", multiple=True, metavar="A->B", help="How it would be without this edge; may be repeated.")
@as_rows
def graph(
    odoo: tuple[Path, ...], no_database: bool, form: str, output: Path | None, impact: str, what_if: tuple[str, ...],
    as_json: bool,
) -> None:  # fmt: skip
    """Show the graph of modules, as a picture, as Mermaid or as JSON; or answer one question about it."""
    result = _inspected(odoo, no_database)
    if (impact or what_if) and form != "svg":
        _answer(result, impact, what_if, as_json=as_json or form == "json")
        return
    text = _written(result, "json" if as_json else form, impact)
    if output is None:
        say_script(text)
        return
    try:
        output.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise click.UsageError(f"{output} cannot be written: {error.strerror}") from None
    say(f"written: {output}", err=True)


def _inspected(odoo: tuple[Path, ...], no_database: bool) -> ModuleCheck:
    result = erpkit.open().modules.check(odoo=odoo, database=not no_database, baseline=False)
    _tell_source(result, quiet=True)
    return result


def _tell_source(result: ModuleCheck, *, quiet: bool) -> None:
    print_target(result.target, quiet=quiet)
    found = {finding.problem for finding in result.findings}
    for text in result.not_read:
        if text not in found:  # else it is told among the findings
            say(f"not read: {text}", err=quiet)


def _answer(result: ModuleCheck, impact: str, what_if: tuple[str, ...], *, as_json: bool) -> None:
    found = find_impact(result, impact) if impact else None
    without = cut_edges(result, what_if) if what_if else None
    if as_json:
        answers: dict[str, object] = {}
        if found:
            answers["impact"] = asdict(found)
        if without:
            answers["what_if"] = asdict(without) | {
                "after": [describe_component(component) for component in without.after]
            }
            answers["what_if"].pop("before")  # type: ignore[attr-defined]
        print_json(answers)
        return
    for answer in (found, without):
        if answer is not None:
            note(str(answer))
            if is_for_programs() and answer is (found or without):  # the main table
                show(replace(answer.table, empty=""))
                continue
            for edge in answer.edges:
                say(f"    {edge}", err=is_for_programs())
    if without:
        note(f"load order then: {_listed(without.order) or 'none, there is a cycle'}")


def _listed(names: Sequence[str], most: int = 60) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _written(result: ModuleCheck, form: str, impact: str) -> str:
    import json  # noqa: PLC0415

    if form == "svg":
        return result.picture(around=impact).svg
    if form == "mermaid":
        from erpkit.modules.picture import as_mermaid  # noqa: PLC0415

        return as_mermaid(result)
    return json.dumps(
        {
            "modules": [{"name": name, "outside": name in result.outside} for name in [*result.names, *result.outside]],
            "order": result.order,
            "edges": [asdict(edge) for edge in result.edges],
            "cycles": [describe_component(component) for component in result.components],
            "not_read": result.not_read,
        },
        indent=2,
    )
