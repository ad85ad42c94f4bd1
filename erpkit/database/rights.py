"""What a login may do: whether it may do more than read, and the GRANT that gives it what it lacks."""

from __future__ import annotations

import re
from dataclasses import dataclass

import psycopg
from psycopg import sql

from erpkit.database.operators import OPERATORS, OWNER_PREFIX, find_owner, owner_name
from erpkit.database.scope import Connection, reset
from erpkit.errors import ErpkitError

__all__ = ["Login", "describe_excess", "find_excess", "mend", "name_grant"]

# The roles that the login may take are few, once those that only read a tenant are left out; each is looked up by index.
_EXCESS = """
WITH login AS (SELECT * FROM pg_catalog.pg_roles WHERE rolname = session_user),
own AS (SELECT r.oid, r.rolname FROM pg_catalog.pg_roles r, login
         WHERE NOT login.rolsuper AND NOT r.rolname LIKE '%.read' AND pg_has_role(login.oid, r.oid, 'MEMBER'))
SELECT session_user::text, CASE
       WHEN rolsuper THEN 'it is a superuser'
       WHEN rolbypassrls THEN 'it bypasses row-level security'
       WHEN rolcreaterole THEN 'it may create roles'
       WHEN rolcreatedb THEN 'it may create databases'
       WHEN rolreplication THEN 'it may replicate'
       WHEN EXISTS (SELECT FROM own WHERE rolname ~ '^pg_' AND rolname <> 'pg_database_owner')
         THEN 'it is a member of ' || (SELECT min(rolname) FROM own WHERE rolname ~ '^pg_' AND rolname <> 'pg_database_owner')
       WHEN EXISTS (SELECT FROM own WHERE starts_with(rolname, 'erpkit_operator')) THEN 'it is a member of erpkit_operator'
       WHEN EXISTS (SELECT FROM pg_catalog.pg_shdepend d JOIN own ON d.refobjid = own.oid
                     WHERE d.refclassid = 'pg_authid'::regclass AND d.deptype = 'o'
                       AND d.dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())))
         THEN 'it owns objects'
       WHEN has_database_privilege(login.oid, current_database(), 'CREATE') THEN 'it may create schemas'
       WHEN EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE NOT starts_with(n.nspname, 'pg_')
                       AND has_schema_privilege(login.oid, n.oid, 'CREATE')) THEN 'it may create tables'
       WHEN EXISTS (SELECT FROM pg_catalog.pg_shdepend d JOIN own ON d.refobjid = own.oid
                      JOIN pg_catalog.pg_class c ON c.oid = d.objid CROSS JOIN LATERAL aclexplode(c.relacl) a
                     WHERE d.refclassid = 'pg_authid'::regclass AND d.deptype = 'a' AND d.classid = 'pg_class'::regclass
                       AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
                       AND a.grantee = own.oid AND a.privilege_type NOT IN ('SELECT', 'USAGE', 'REFERENCES'))
         THEN 'it may write tables' END
  FROM login
"""
_ROLE = re.compile(r'(?:set|grant|alter|drop|rename) role "(?P<role>[^"]+)"')
_OBJECT = re.compile(r"(?:permission denied for|must be owner of) (?P<kind>[a-z ]+?) (?P<name>\S+)$")


@dataclass(frozen=True)
class Login:
    """Who was refused: whether it is a member of `erpkit_operator`, and whether operators share this database.

    `owner` is the role that they share, where the login may act as it.
    """

    name: str
    database: str
    is_member: bool
    has_operators: bool
    owner: str | None = None


_FACTS = """
SELECT session_user::text, coalesce(pg_has_role(session_user, to_regrole(%s)::oid, 'MEMBER'), false),
       to_regrole(quote_ident(%s)) IS NOT NULL
"""


def describe_excess(connection: Connection) -> str | None:
    """Say in one line what a login may do besides reading; None for one that may only read."""
    login, excess = find_excess(connection)
    if not excess:
        return None
    return (
        f"the login {login} may do more than read ({excess}): hostile SQL is not held; "
        "connect as a member of erpkit_analyst"
    )


def find_excess(connection: Connection) -> tuple[str, str]:
    """Return the name of the login, and what it may do besides reading as a clause; "" for one that may only read."""
    row = connection.execute(_EXCESS).fetchone()
    return (row[0], row[1] or "") if row else ("", "")


def name_grant(connection: Connection, error: BaseException) -> None:
    """Add the statement that mends a missing right to an error that comes of one; the connection's transaction ends.

    An ErpkitError says it in its own line, an error of the driver's in a note.
    """
    refusal = next((one for one in _causes(error) if isinstance(one, psycopg.errors.InsufficientPrivilege)), None)
    if refusal is None or getattr(error, "is_mended", False) or connection.closed:
        return
    try:
        reset(connection)
        ((database,),) = connection.execute("SELECT current_database()::text").fetchall()
        ((name, is_member, has_operators),) = connection.execute(_FACTS, [OPERATORS, owner_name(database)]).fetchall()
        login = Login(name, database, is_member, has_operators, find_owner(connection))
    except psycopg.Error:  # the way out is a help only
        return
    hint = mend(refusal.diag.message_primary or str(refusal), login)
    if isinstance(error, ErpkitError):
        error.args = (f"{error}: {hint}",)
    else:
        error.add_note(hint)
    error.is_mended = True  # type: ignore[attr-defined]  # one may pass through two connections


def mend(message: str, login: Login) -> str:
    """Return the statement that gives a login what PostgreSQL's `message` says it lacks. Pure."""
    if role := _ROLE.search(message):
        return _mend_role(role["role"], message, login.name)
    if login.owner is None and login.has_operators:
        return f"GRANT {OPERATORS} TO {_quoted(login.name)} (to read alone, erpkit_analyst)"
    grantee = _quoted(login.owner or login.name)
    if "create role" in message:
        return f"ALTER ROLE {grantee} CREATEROLE"
    match = _OBJECT.search(message)
    kind, name = (match["kind"], match["name"]) if match else ("", "")
    if kind == "database":
        return f"GRANT CREATE ON DATABASE {_quoted(login.database)} TO {grantee}"
    if (kind, name) == ("schema", "public"):
        return f"GRANT USAGE, CREATE ON SCHEMA public TO {grantee}"
    hand_over = "run erpkit tenants hand-over as the login that owns it"
    if login.owner is None:
        return hand_over if login.is_member else f"GRANT {OPERATORS} TO {_quoted(login.name)}, and {hand_over}"
    if match is None or message.startswith("must be owner"):
        return hand_over
    return f"GRANT ALL ON {kind.upper()} {name} TO {grantee}, or {hand_over}"


def _mend_role(role: str, message: str, login: str) -> str:
    if role.startswith(OWNER_PREFIX):
        return f"GRANT {OPERATORS} TO {_quoted(login)}"
    if "set role" in message and "." not in role:  # a login of the ERP's own, as which its adopted tenants are migrated
        return f"GRANT {_quoted(role)} TO {_quoted(login)}"
    if "set role" in message:
        group = "erpkit_analyst" if role.endswith(".read") else OPERATORS
        return f"GRANT {_quoted(role)} TO {_quoted(login)}, or {group} for all tenants"
    return f"GRANT {_quoted(role)} TO {_quoted(login)} WITH ADMIN OPTION"


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__
    return found


def _quoted(name: str) -> str:
    return name if re.fullmatch("[a-z_][a-z0-9_]*", name) else sql.Identifier(name).as_string()
