"""The login that looks at a foreign ERP: what it may do, the grants that it lacks, and a login that may only read."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from psycopg import sql

from erpkit.database import Connection
from erpkit.database.rights import find_excess
from erpkit.database.scope import quote_name
from erpkit.errors import UsageError
from erpkit.tenants.sql_tokens import read_tokens

__all__ = ["Login", "find_asked", "grants_lacking", "grants_of_reader", "read_login"]

_OWN = {"slug", "schema_name", "role_name", "name", "status"}  # the columns of erpkit's own table of tenants
_READER = "erp_reader"  # the login that is proposed
_FEW = 5  # schemas that are granted one by one

_LOGIN = """
SELECT session_user::text, quote_ident(session_user), current_setting('server_version'), pg_backend_pid(), pg_is_in_recovery(),
       ARRAY(SELECT attname::text FROM pg_catalog.pg_attribute
              WHERE attrelid = coalesce(to_regclass('public.erpkit_tenants'), to_regclass('public.tenants'))
                AND attnum > 0 AND NOT attisdropped)
"""


@dataclass(frozen=True)
class Login:
    """Who is connected: `quoted` is the name as SQL writes it, `excess` what it may do besides reading.

    `pooler` tells whether one is in between, and `registry` are the columns of public.erpkit_tenants, else of
    public.tenants, if there is one.
    """

    name: str
    quoted: str
    version: str
    excess: str
    pooler: bool
    is_standby: bool
    registry: frozenset[str]

    @property
    def owns_registry(self) -> bool:
        """Whether there is a table of tenants of erpkit's own."""
        return self.registry >= _OWN


def read_login(connection: Connection) -> Login:
    """Read who is connected, to what, and how; two queries."""
    ((name, quoted, version, pid, is_standby, columns),) = connection.execute(_LOGIN).fetchall()
    _, excess = find_excess(connection)
    # A pooler gives a process id of its own at connection: the server's may be another one at each transaction.
    is_pooled = pid != connection.info.backend_pid
    return Login(name, quoted, version.split(" ")[0], excess, is_pooled, is_standby, frozenset(columns))


def find_asked(query: str, tables: Mapping[str, Collection[str]]) -> list[tuple[str, str]]:
    """Return the tables, each with its schema, whose names stand in a query. Pure."""
    try:
        names = {token.value for token in read_tokens(query) if token.is_name}
    except UsageError:  # of SQL that cannot be read, which the server refuses, too
        return []
    near = {"public", *names}  # a name without a schema is found there
    return sorted(
        (schema, table) for schema, some in tables.items() for table in some if schema in near and table in names
    )


def grants_lacking(login: Login, schemas: Sequence[str], asked: Sequence[tuple[str, str]] = ()) -> Iterator[str]:
    """Yield the SQL that lets a login read schemas, of many one block for all, and the tables `asked`. Pure."""
    yield from _grant_tables(login.quoted, asked)
    if not schemas:
        return
    if len(schemas) > _FEW:
        names = sql.Literal(list(schemas)).as_string()
        yield _grant_each(login.quoted, f"SELECT unnest({names}::text[])")
    else:
        names = ", ".join(sql.Identifier(name).as_string() for name in schemas)
        yield f"GRANT USAGE ON SCHEMA {names} TO {login.quoted};"
        yield f"GRANT SELECT ON ALL TABLES IN SCHEMA {names} TO {login.quoted};"


def _grant_tables(login: str, tables: Sequence[tuple[str, str]]) -> Iterator[str]:
    for schema in dict.fromkeys(schema for schema, _ in tables):
        yield f"GRANT USAGE ON SCHEMA {quote_name(schema)} TO {login};"
    for schema, table in tables:
        yield f"GRANT SELECT ON {quote_name(schema)}.{quote_name(table)} TO {login};"


def grants_of_reader(query: str, asked: Sequence[tuple[str, str]], owners: Sequence[str]) -> Iterator[str]:
    """Yield the SQL that makes a login which may read the tenants that `query`, which asks tables, lists, and nothing more. Pure.

    Tenants that come later are granted by the default privileges of the `owners` of the schemas.
    """
    yield f"CREATE ROLE {_READER} LOGIN;  -- its password: \\password {_READER}"
    listed = f"(\n  {query}\n) q ON q.schema_name = n.nspname"
    yield _grant_each(_READER, f"SELECT n.nspname FROM pg_namespace n JOIN {listed}")  # noqa: S608 - for a person to run
    yield from _grant_tables(_READER, asked)
    for owner in owners:
        yield f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner} GRANT USAGE ON SCHEMAS TO {_READER};"
        yield f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner} GRANT SELECT ON TABLES TO {_READER};"


def _grant_each(login: str, query: str) -> str:
    """Return a block that grants the reading of each schema that a query gives."""
    grants = (f"GRANT USAGE ON SCHEMA %I TO {login}", f"GRANT SELECT ON ALL TABLES IN SCHEMA %I TO {login}")
    lines = [f"  EXECUTE format({sql.Literal(grant).as_string()}, s);" for grant in grants]
    body = "\n".join(["DECLARE s text; BEGIN", f"FOR s IN {query} LOOP", *lines, "END LOOP; END"])
    tag = "$grant$"
    while tag in body:  # a schema may be called anything
        tag = f"{tag[:-1]}_$"
    return f"DO {tag} {body} {tag};"
