"""The privileges of logins: whether one may do more than read, the GRANT that one lacks, and what analysts may read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import LiteralString

import psycopg
from psycopg import pq

from erpkit.database.operators import (
    OPERATORS,
    OWNER_PREFIX,
    as_owner,
    database_name,
    find_owner,
    lock_shared,
    owner_name,
)
from erpkit.database.scope import Connection, quote_name, reset
from erpkit.errors import DatabaseError, ErpkitError

# Without the tenants' reading roles, the roles that a login may take are few, and each is looked up by index.
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
    """A login that was refused: whether it is a member of `erpkit_operator`, and whether this database has operators.

    `owner` is the operators' role, if the login may act as it.
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
    """Return a warning for a login that may do more than read; None for one that may only read."""
    login, excess = find_excess(connection)
    if not excess:
        return None
    return (
        f"the login {login} may do more than read ({excess}), so hostile SQL could, too: "
        "connect as a member of erpkit_analyst"
    )


def find_excess(connection: Connection) -> tuple[str, str]:
    """Return the name of the login, and a clause that says what it may do besides reading, or ""."""
    row = connection.execute(_EXCESS).fetchone()
    return (row[0], row[1] or "") if row else ("", "")


def name_grant(connection: Connection, error: BaseException) -> None:
    """Add the missing GRANT to an error that a missing privilege caused; this ends the connection's transaction.

    It becomes a part of an ErpkitError's message, and a note of the driver's own errors.
    """
    refusal = next((one for one in _causes(error) if isinstance(one, psycopg.errors.InsufficientPrivilege)), None)
    if refusal is None or getattr(error, "is_mended", False) or connection.closed:
        return
    try:
        reset(connection)
        database = database_name(connection)
        ((name, is_member, has_operators),) = connection.execute(_FACTS, [OPERATORS, owner_name(database)]).fetchall()
        login = Login(name, database, is_member, has_operators, find_owner(connection))
    except psycopg.Error:  # the hint is only a help
        return
    hint = mend(refusal.diag.message_primary or str(refusal), login)
    if isinstance(error, ErpkitError):
        error.args = (f"{error}: {hint}",)
    else:
        error.add_note(hint)
    error.is_mended = True  # type: ignore[attr-defined]  # an error may pass through two connections


def mend(message: str, login: Login) -> str:
    """Return the statement that grants a login what PostgreSQL's `message` says is missing. Pure."""
    if role := _ROLE.search(message):
        return _mend_role(role["role"], message, login.name)
    if login.owner is None and login.has_operators:
        return f"GRANT {OPERATORS} TO {_quoted(login.name)} (or erpkit_analyst, to read only)"
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
    return name if re.fullmatch("[a-z_][a-z0-9_]*", name) else quote_name(name)


ANALYSTS: LiteralString = "erpkit_analyst"

# The grants that analysts lack and this login may give. New tables of `_template` get theirs by default privileges.
_MISSING = f"""
WITH analyst AS (SELECT oid FROM pg_roles WHERE rolname = '{ANALYSTS}'),
things AS (
    SELECT n.nspname, c.oid, c.relname, c.relowner FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'v', 'm')
       AND (n.nspname = '_template' OR n.nspname = 'public' AND c.relname IN ('erpkit_tenants', 'erpkit_runs', 'erpkit_looks',
                                                                         'erpkit_migrations')
            OR n.nspname = 'public' AND c.relname = 'tenants' AND to_regclass('public.erpkit_tenants') IS NULL)
)
SELECT format('GRANT SELECT ON %I.%I TO {ANALYSTS}', t.nspname, t.relname) FROM things t, analyst a
 WHERE NOT has_table_privilege(a.oid, t.oid, 'SELECT') AND pg_has_role(t.relowner, 'USAGE')
UNION ALL
SELECT 'GRANT USAGE ON SCHEMA _template TO {ANALYSTS}' FROM pg_namespace n, analyst a
 WHERE n.nspname = '_template' AND NOT has_schema_privilege(a.oid, n.oid, 'USAGE') AND pg_has_role(n.nspowner, 'USAGE')
UNION ALL
SELECT 'ALTER DEFAULT PRIVILEGES IN SCHEMA _template GRANT SELECT ON TABLES TO {ANALYSTS}' FROM pg_namespace n, analyst a
 WHERE n.nspname = '_template' AND has_schema_privilege(n.oid, 'CREATE')
   AND NOT EXISTS (SELECT FROM pg_default_acl d JOIN pg_roles r ON r.oid = d.defaclrole, aclexplode(d.defaclacl) e
                    WHERE d.defaclnamespace = n.oid AND r.rolname = current_user AND d.defaclobjtype = 'r'
                      AND e.grantee = a.oid)
"""  # noqa: S608 - the group is a constant


def grant_analysts(connection: Connection) -> None:
    """Let analysts read public.tenants, the records of runs and migrations, and `_template`, as far as they exist.

    Call it after creating one of them; it also grants what an earlier erpkit did not. Several processes may do so at once.
    Objects of the operators' role are granted as that role, so that its default privileges cover what it creates later.
    """
    _grant(connection)
    if find_owner(connection) is not None:
        with connection.transaction(), as_owner(connection, "_template"):
            _grant(connection)


def _grant(connection: Connection) -> None:
    if not connection.execute(_MISSING).fetchone():
        return
    with connection.transaction():
        lock_shared(connection)
        for (grant,) in connection.execute(_MISSING).fetchall():
            connection.execute(grant.encode())


def may_not_read(connection: Connection, table: str) -> DatabaseError:
    """Return the error for a login that may not read a table of erpkit's in `public`, with the statement to run."""
    login = connection.info.user
    to = _quoted(login)
    refused = f"the login {login} may not read public.{table}"
    if _is_operator(connection):
        return DatabaseError(f"{refused}: run erpkit tenants hand-over as the login that owns it")
    return DatabaseError(
        f"{refused}: GRANT {ANALYSTS} TO {to}, which lets it read all tenants, or GRANT SELECT ON public.{table} TO {to}; "
        f"to operate them, GRANT {OPERATORS} TO {to}"
    )


def _is_operator(connection: Connection) -> bool:
    if (
        connection.info.transaction_status != pq.TransactionStatus.IDLE
    ):  # what failed in a transaction leaves it unusable
        return False
    row = connection.execute(
        "SELECT coalesce(pg_has_role(session_user, to_regrole(%s)::oid, 'MEMBER'), false)", [OPERATORS]
    ).fetchone()
    return row == (True,)
