"""The tenants of an installation: one of them to work in, or all of them to look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

from erpkit.database import Connection, Tenant
from erpkit.erp.installation import Installation
from erpkit.errors import UsageError
from erpkit.events import CommandBus, Message, QueryBus
from erpkit.modules import Query
from erpkit.table import Column, Table, Tone

__all__ = ["ErpTenant", "Tenants"]

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class ErpTenant:
    """One tenant, to work in."""

    installation: Installation
    tenant: Tenant

    def transaction(
        self, *, write: bool = False, statement_timeout: float | None = 30
    ) -> AbstractContextManager[Connection]:
        """Lend a connection inside a transaction of this tenant, which only reads without `write`.

        It commits at the end and rolls back on an error. `statement_timeout` is in seconds. Raises DatabaseError when the
        tenant's schema does not exist.
        """
        return self.installation.database.tenant_transaction(
            self.tenant, write=write, statement_timeout=statement_timeout
        )

    def send(self, command: object) -> list[Message]:
        """Carry out a command by its one handler, in a transaction; return the events that it published.

        Raises what the handler raises, with nothing done.
        """
        self.installation.own("event log")
        return CommandBus(self.installation.database, self.installation.registry).send(self.tenant, command)

    def ask(self, query: Query[_Answer]) -> _Answer:
        """Return the answer to a query by its one handler, which can only read."""
        return QueryBus(self.installation.database, self.installation.registry).ask(self.tenant, query)

    def __str__(self) -> str:
        return f"{self.tenant.slug}: schema {self.tenant.schema}, {self.tenant.status}"

    __repr__ = __str__


class Tenants(Mapping[str, ErpTenant]):
    """All tenants by name: `erp.tenants["acme"]` is one to work in. It shows itself as a table."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation

    def __getitem__(self, name: str) -> ErpTenant:
        try:
            (tenant,) = self._installation.find([name])
        except (UsageError, ValueError) as error:
            raise KeyError(str(error) if isinstance(error, UsageError) else f"{name!r} names several tenants") from None
        return ErpTenant(self._installation, tenant)

    def __iter__(self) -> Iterator[str]:
        return (tenant.slug for tenant in self._installation.find())

    def __len__(self) -> int:
        return len(self._installation.find())

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    @property
    def table(self) -> Table[Tenant]:
        """One line a tenant: its name for people, its schema and its status."""
        empty = "There are no tenants. erpkit tenants create NAME makes one; erpkit demo makes a dozen to look around."
        return Table(_COLUMNS, self._installation.find(), empty)

    def __repr__(self) -> str:
        return repr(self.table)

    def _repr_html_(self) -> str:
        return self.table._repr_html_()


def _tone(tenant: Tenant) -> Tone:
    return "" if tenant.is_active else "muted"


_COLUMNS = (
    Column[Tenant]("tenant", lambda t: t.slug, tone=_tone),
    Column[Tenant]("name", lambda t: t.name, tone=_tone),
    Column[Tenant]("schema", lambda t: t.schema, tone=_tone),
    Column[Tenant]("status", lambda t: t.status, tone=_tone),
)
