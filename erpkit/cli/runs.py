"""erpkit runs: the record of what ran."""

from __future__ import annotations

from dataclasses import asdict

import click

import erpkit
from erpkit.cli.options import as_json, limit_option
from erpkit.cli.output import print_json, print_target, show


@click.command("runs")
@click.option("--notebook", metavar="NAME", help="Only runs of this notebook.")
@limit_option(20)
@as_json
def command(notebook: str | None, limit: int, as_json: bool) -> int:
    """List the runs that `erpkit run` recorded in the database, the newest first.

    `running` is a run that is under way; `lost` one whose process gave no sign of life for a minute.
    """
    with erpkit.open() as erp:
        print_target(erp.target, quiet=as_json)
        history = erp.runs.history(notebook or "", limit=limit)
    if as_json:
        print_json([asdict(run) for run in history.runs])
    else:
        show(history.table)
    return 0
