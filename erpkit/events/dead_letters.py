"""Events that a handler failed on: where they are and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg import sql

from erpkit.database import Connection, Tenant, fetch_union, schemas_with_table

__all__ = ["DeadLetter", "list_dead_letters"]


@dataclass(frozen=True)
class DeadLetter:
    """One event that one handler failed on; its payload is not in it."""

    tenant: str
    handler: str
    topic: str
    offset: int
    uuid: UUID
    error: str
    attempts: int
    failed_at: datetime


def list_dead_letters(connection: Connection, tenants: Sequence[Tenant]) -> list[DeadLetter]:
    """Return the open dead letters of all `tenants`, in one query for the fleet, by tenant and offset."""
    found = schemas_with_table(connection, "erpkit_dead_letters", [tenant.schema for tenant in tenants])
    queries = [
        sql.SQL(
            "SELECT {}, handler, topic, \"offset\", uuid, error, attempts, failed_at FROM {} WHERE status = 'open'"
        ).format(sql.Literal(tenant.slug), sql.Identifier(tenant.schema, "erpkit_dead_letters"))
        for tenant in tenants
        if tenant.schema in found
    ]
    letters = [DeadLetter(*row) for row in fetch_union(connection, queries)]
    return sorted(letters, key=lambda letter: (letter.tenant, letter.offset))
