"""Databases in which there is little to see: one with nothing in it, one of another ERP, and one that may not all be read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from erpkit.database import ANALYSTS, Database, Tenant
from erpkit.embedded import EmbeddedServer

FOREIGN = ("nord-0001", 'Süd "A"', "select")  # schemas, and names of tenants
FOREIGN_QUERY = (
    "SELECT nspname::text AS slug, nspname::text AS schema_name FROM pg_catalog.pg_namespace "
    "WHERE nspname !~ '^(pg_|information_schema$|public$)' ORDER BY 1"
)


@contextmanager
def empty_database(server: EmbeddedServer, name: str) -> Iterator[dict[str, str]]:
    """Make a database with nothing in it; lend the variables by which erpkit finds it, with the sample ERP's modules."""
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield {"ERPKIT_DATABASE": server.url(name), "ERPKIT_MODULES": "erpkit.sample"}
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def foreign_database(server: EmbeddedServer, name: str) -> Iterator[dict[str, str]]:
    """Make another ERP's database, three alike schemas with odd names and no table of erpkit's; it has no modules."""
    with empty_database(server, name) as environ:
        with psycopg.connect(environ["ERPKIT_DATABASE"], autocommit=True) as connection:
            for schema in FOREIGN:
                connection.execute(
                    sql.SQL(
                        "CREATE SCHEMA {0}; CREATE TABLE {0}.invoices (id int PRIMARY KEY, total numeric); "
                        "INSERT INTO {0}.invoices VALUES (1, 9.5)"
                    ).format(sql.Identifier(schema))
                )
        yield {"ERPKIT_DATABASE": environ["ERPKIT_DATABASE"], "ERPKIT_TENANTS_QUERY": FOREIGN_QUERY}


@contextmanager
def analyst_login(database: Database, login: str, unread: Tenant | None = None) -> Iterator[dict[str, str]]:
    """Make a login that is an analyst and nothing else; with `unread`, no analyst may read that tenant meanwhile."""
    name, group = sql.Identifier(login), sql.Identifier(ANALYSTS)
    reader = sql.Identifier(unread.reader or "") if unread else None
    with database.connection() as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN NOINHERIT; GRANT {} TO {}").format(name, group, name))
        if reader:
            connection.execute(sql.SQL("REVOKE {} FROM {}").format(reader, group))
        try:
            conninfo = psycopg.conninfo.make_conninfo(database.conninfo, user=login)
            yield {"ERPKIT_DATABASE": conninfo, "ERPKIT_MODULES": "erpkit.sample"}
        finally:
            if reader:
                connection.execute(sql.SQL("GRANT {} TO {}").format(reader, group))
            connection.execute(sql.SQL("DROP OWNED BY {}; DROP ROLE {}").format(name, name))
