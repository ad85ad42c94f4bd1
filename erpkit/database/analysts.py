"""What the group of analysts may read beside the tenants: the registry, the records, and the canonical schema."""

from __future__ import annotations

from typing import LiteralString

from psycopg import pq, sql

from erpkit.database.operators import OPERATORS, as_owner, find_owner
from erpkit.database.scope import Connection
from erpkit.errors import DatabaseError

__all__ = ["ANALYSTS", "grant_analysts", "may_not_read"]

ANALYSTS: LiteralString = "erpkit_analyst"

# What is missing and is this login's to give. New tables of `_template` come with the default privilege.
_MISSING = f"""
WITH analyst AS (SELECT oid FROM pg_roles WHERE rolname = '{ANALYSTS}'),
things AS (
    SELECT n.nspname, c.oid, c.relname, c.relowner FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'v', 'm')
       AND (n.nspname = '_template' OR n.nspname = 'public' AND c.relname IN ('erpkit_tenants', 'erpkit_runs', 'erpkit_migrations')
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
    """Let analysts read public.tenants, the records of runs and migrations, and `_template`, as far as they are there.

    Call it after one of these was made; it grants what an earlier erpkit did not grant, too. Many processes may do so at once.
    What the operators' role owns is granted as that role, whose default privileges hold for what it makes.
    """
    _grant(connection)
    if find_owner(connection) is not None:
        with connection.transaction(), as_owner(connection, "_template"):
            _grant(connection)


def _grant(connection: Connection) -> None:
    if not connection.execute(_MISSING).fetchone():
        return
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('erpkit.tenants', 0))")
        for (grant,) in connection.execute(_MISSING).fetchall():
            connection.execute(grant.encode())


def may_not_read(connection: Connection, table: str) -> DatabaseError:
    """Say that the login may not read a table of erpkit's in the schema public, and what to grant."""
    login = connection.info.user
    to = sql.Identifier(login).as_string() if not login.replace("_", "a").isalnum() or login != login.lower() else login
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
