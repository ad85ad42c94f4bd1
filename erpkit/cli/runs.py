"""erpkit runs: the record of what ran."""

from __future__ import annotations

import click

from erpkit.cli.output import as_json, open_database
from erpkit.cli.run_output import print_runs
from erpkit.runs import list_runs


@click.command("runs")
@click.option("--notebook", metavar="NAME", help="Only runs of this notebook.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="How many, the newest first.")
@as_json
def command(notebook: str | None, limit: int, as_json: bool) -> int:
    """List the runs that `erpkit run` recorded in the database, the newest first.

    `running` is a run that is under way; `lost` one whose process gave no sign of life for a minute.
    """
    with open_database(quiet=as_json) as database, database.connection() as connection:
        print_runs(list_runs(connection, notebook, limit=limit), as_json)
    return 0
