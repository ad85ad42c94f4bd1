"""erpkit doctor: what any database is to erpkit, and what to do next."""

from __future__ import annotations

import click
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

import erpkit
from erpkit.cli.helping import Command
from erpkit.cli.output import (
    COMMAND,
    as_rows,
    is_for_programs,
    print_findings,
    print_json,
    print_target,
    say,
    say_text,
    show,
)
from erpkit.errors import UsageError
from erpkit.finding import exit_code
from erpkit.table import Column, Table
from erpkit.tenants import Diagnosis


@click.command("doctor", cls=Command)
@click.argument("database", default="", metavar="[DATABASE]")
@as_rows
def command(database: str, as_json: bool) -> int:
    """Look at any PostgreSQL database, and tell what erpkit can do there; nothing has to be configured, nothing is written.

    It tells what the login may do, which schemas look like the tenants of one ERP, which table lists them, which tool migrates
    them, and ends with the commands to paste next. DATABASE is a connection string without a password, service=NAME or env:NAME;
    without it the configured database. Exit code 3 if something stands in the way.
    """
    _refuse_password(database)
    with erpkit.open(database) as erp:
        print_target(erp.target, quiet=as_json)
        found = erp.doctor(named=database)
    if as_json:
        print_json(found.document)
    else:
        _print(found)
    return exit_code(found.findings)


def _refuse_password(database: str) -> None:
    """A password among the arguments is read by everybody who lists the processes, and kept by the shell."""
    try:
        has_password = (
            bool(conninfo_to_dict(database).get("password")) if database and "env:" not in database else False
        )
    except ProgrammingError:
        return  # which is told when it is opened
    if has_password:
        raise UsageError(
            "a password does not belong into an argument: put the database into ERPKIT_DATABASE, or use .pgpass"
        )


_FACTS = (
    Column[tuple[str, str]]("what", lambda row: row[0]),
    Column[tuple[str, str]]("value", lambda row: row[1]),
)


def _print(found: Diagnosis) -> None:
    if is_for_programs():
        show(Table(_FACTS, list(found.facts.items())))
    else:
        width = max(map(len, found.facts))
        for name, text in found.facts.items():
            say(f"{name:<{width}}  {text}", hang=width + 2)
    print_findings(found.findings)
    if found.abilities and not is_for_programs():
        say()
        show(found.table)
    _say_next(found, err=is_for_programs())


def _say_next(found: Diagnosis, *, err: bool) -> None:
    if found.grants:
        title = (
            "To let this login read the rest, as the owner:"
            if found.lacks_rights
            else "A login that may only read, as the owner:"
        )
        say(err=err)
        say(title, err=err)
        say_text("\n".join(f"    {line}" for grant in found.grants for line in grant.splitlines()), err=err)
    say(err=err)
    say("Next:", err=err)
    for line in found.commands:
        say(f"    {line}", err=err, tone=COMMAND)
