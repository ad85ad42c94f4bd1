"""Whether a database answers, and how it is named for people."""

from __future__ import annotations

import re

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from erpkit.errors import DatabaseError, UsageError

__all__ = ["probe"]


def probe(conninfo: str) -> str:
    """Connect once, so that what is wrong is told at once and in one line; return the target's name."""
    named = _describe(conninfo)
    try:
        with psycopg.connect(conninfo, connect_timeout=10, application_name="erpkit") as connection:
            info = connection.info
            return f"{info.host or 'local socket'}/{info.dbname}/{info.user}"
    except psycopg.OperationalError as error:
        raise DatabaseError(f"cannot connect to {named}: {_reason(error)}") from None
    except psycopg.ProgrammingError:  # a malformed string; libpq's message may repeat the password in it
        raise UsageError(
            "ERPKIT_DATABASE is no libpq connection string: use postgresql://user@host/database or service=NAME"
        ) from None


def _describe(conninfo: str) -> str:
    try:
        parts = conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:
        return "the configured database"
    defaults = {option.keyword.decode(): option.val for option in pq.Conninfo.get_defaults()}  # from PG* variables, too
    known = {key: (value or b"").decode() for key, value in defaults.items()} | {k: str(v) for k, v in parts.items()}
    if known.get("service"):
        return f"service {known['service']}"
    return "/".join((known.get("host") or "local socket", known.get("dbname") or known["user"], known["user"]))


def _reason(error: psycopg.Error) -> str:
    """Cut libpq's message, which may name each address that was tried and give hints, down to its reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    line = next((line for line in lines if "FATAL:" in line), None) or next(
        (line for line in lines if "failed: " in line), lines[0]
    )
    reason = line.split("FATAL:")[-1].split("failed: ")[-1].strip()
    if re.search(r"local user with ID \d+ does not exist", reason):  # libpq would log in under the system user's name
        reason = f"{reason}: name the database's user in ERPKIT_DATABASE, or set PGUSER"
    return reason
