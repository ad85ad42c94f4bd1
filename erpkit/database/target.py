"""Connect once to a database to see whether it answers, and name it for people."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from erpkit.database.rights import ANALYSTS
from erpkit.database.scope import Connection
from erpkit.errors import DatabaseError, UsageError

# A login that inherits nothing must take the group's role to read the registry; one with privileges of its own need not.
_IS_ANALYST = f"""
SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = '{ANALYSTS}' AND pg_has_role(oid, 'MEMBER') AND NOT pg_has_role(oid, 'USAGE'))
   AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'erpkit_operator' AND pg_has_role(oid, 'MEMBER'))
   AND has_table_privilege(coalesce(to_regclass('public.erpkit_tenants'), to_regclass('public.tenants')), 'SELECT') IS FALSE
"""  # noqa: S608 - the group is a constant


class Target(NamedTuple):
    """A database that answers: its name for people, and how an analyst's login connects to take the role of its group."""

    name: str
    conninfo: str


def probe(conninfo: str, name: str | None = None) -> Target:
    """Connect once, so that a wrong setting is reported at once and in one line.

    `name` is what the error calls the target; without one it is read from `conninfo`.
    """
    named = name or _describe(conninfo)
    try:
        with psycopg.connect(conninfo, connect_timeout=10, application_name="erpkit") as connection:
            info = connection.info
            return Target(f"{info.host or 'local socket'}/{info.dbname}/{info.user}", _as_analyst(connection, conninfo))
    except psycopg.OperationalError as error:
        raise DatabaseError(f"cannot connect to {named}: {_reason(error)}") from None
    except psycopg.ProgrammingError:  # a malformed string; libpq's message may repeat the password in it
        raise _not_libpq("ERPKIT_DATABASE") from None


def check_conninfo(conninfo: str, source: str) -> None:
    """Raise UsageError, naming where it comes from, for a text that libpq cannot read; it is not repeated."""
    try:
        conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:
        raise _not_libpq(source) from None


def _not_libpq(source: str) -> UsageError:
    return UsageError(f"{source} is not a libpq connection string: use postgresql://user@host/database or service=NAME")


def _as_analyst(connection: Connection, conninfo: str) -> str:
    """Return `conninfo`; for an analyst's login it also sets the group's role, to which every RESET returns."""
    if connection.execute(_IS_ANALYST).fetchone() != (True,):
        return conninfo
    usual = conninfo_to_dict(conninfo).get("options") or os.environ.get("PGOPTIONS", "")
    return make_conninfo(conninfo, options=f"{usual} -c role={ANALYSTS}".strip())


def _describe(conninfo: str) -> str:
    try:
        parts = conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:
        return "the configured database"
    defaults = {option.keyword.decode(): option.val for option in pq.Conninfo.get_defaults()}  # from PG* variables, too
    known = {key: (value or b"").decode() for key, value in defaults.items()} | {k: str(v) for k, v in parts.items()}
    if known.get("service"):
        return f"service {known['service']}"
    host = known.get("host") or "local socket"
    port = f":{known['port']}" if known.get("port") and "/" not in host and known.get("host") else ""
    return "/".join((f"{host}{port}", known.get("dbname") or known["user"], known["user"]))


def _reason(error: psycopg.Error) -> str:
    """Return the reason in libpq's message, which may also name each address that was tried and give hints."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    line = next((line for line in lines if "FATAL:" in line), None) or next(
        (line for line in lines if "failed: " in line), lines[0]
    )
    reason = line.split("FATAL:")[-1].split("failed: ")[-1].strip()
    if re.search(r"local user with ID \d+ does not exist", reason):  # libpq takes the system user's name by default
        reason = f"{reason}: name the database's user in ERPKIT_DATABASE, or set PGUSER"
    return reason
