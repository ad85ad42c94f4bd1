"""An installation of an ERP: its settings, its database, its modules, and where its tenants are listed."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from types import TracebackType
from typing import Self

from erpkit.config import Settings
from erpkit.database import TEMPLATE, Connection, Database, Tenant
from erpkit.errors import UsageError
from erpkit.migrations import ForeignStates, Migration, read_foreign_states
from erpkit.modules import Registry, find_modules, load_modules
from erpkit.tenants import find_tenants
from erpkit.tenants.registry import has_event_log

_PATTERN = frozenset("*?[")


class Installation:
    """What all operations share. Each part is opened or read when it is first used, and then kept.

    Use it as a context manager: after the block nothing can be read, and no plan applied. `close` only gives the connections back.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._is_closed = False

    @cached_property
    def database(self) -> Database:
        """The database; raises DatabaseError, naming it, when it does not answer, and UsageError after a `with` block."""
        if self._is_closed:
            raise UsageError("the with block of this ERP has ended: open it again with erpkit.open()")
        return Database.open(self.settings)

    @cached_property
    def registry(self) -> Registry:
        """The modules in load order; raises ModuleError, naming the culprit, when they do not fit together."""
        return load_modules(self.settings)

    @cached_property
    def candidates(self) -> Sequence[object]:
        """The modules as they were registered, not yet sorted and checked."""
        return find_modules(self.settings)

    @property
    def target(self) -> str:
        """The name of the database for people."""
        return self.database.target

    @property
    def is_foreign(self) -> bool:
        """Whether erpkit did not make this ERP, and so only reads it."""
        return self.settings.tenants_query is not None

    @property
    def has_event_log(self) -> bool:
        """Whether tenants have erpkit's event log: not those that it only reads, or adopted without it."""
        if self.is_foreign:
            return False
        with self.database.connection() as connection:
            return has_event_log(connection)

    @property
    def no_tenants(self) -> str:
        """What to do where there are no tenants."""
        return "ERPKIT_TENANTS_QUERY gives no row" if self.is_foreign else "erpkit tenants create NAME"

    def find(self, names: Sequence[str] = (), *, active: bool = False) -> list[Tenant]:
        """Return the tenants of these names or patterns (`a*`), all without a name; with `active`, those alone of all.

        Raises UsageError for a name that no tenant has, for a pattern that fits none, and for a text in place of a list.
        """
        if isinstance(names, str):
            raise UsageError(f"the tenants are given as a list: write [{names!r}]")
        if odd := [name for name in names if not isinstance(name, str)]:
            raise UsageError(f"a tenant is looked up by its name, and {odd[0]!r} is not a text")
        with self.database.connection() as connection:
            plain = [name for name in names if not _PATTERN & set(name)]
            everyone = find_tenants(connection, () if len(plain) < len(names) else names, self.settings.tenants_query)
        found = everyone if len(plain) == len(names) else _matching(everyone, names)
        return [tenant for tenant in found if tenant.is_active or not active]

    def one(self, name: str) -> Tenant:
        """Return the one tenant of this name; raises UsageError for a name that no tenant has, and for a pattern."""
        found = {tenant.slug: tenant for tenant in self.find([name])}
        if name not in found:
            raise UsageError(f"{name!r} is a pattern: name one tenant, such as {min(found)}")
        return found[name]

    def foreign_states(
        self, connection: Connection, tenants: Sequence[Tenant], migrations: Sequence[Migration], against: str = ""
    ) -> ForeignStates:
        """Read what other tools keep of the migrations of `tenants`, but for the tables of the modules' own `migrations`."""
        if all(tenant.schema != TEMPLATE.schema for tenant in tenants):
            tenants = [TEMPLATE, *tenants]
        known = {migration.version_table for migration in migrations}
        declared = self.settings.migration_state
        return read_foreign_states(connection, tenants, known=[*known], declared=declared, against=against)

    def own(self, what: str) -> None:
        """Raise UsageError where the ERP is one that erpkit only reads, which has no `what`."""
        if self.is_foreign:
            raise UsageError(
                f"ERPKIT_TENANTS_QUERY is set: erpkit only reads this ERP, which has no {what} of erpkit's"
            )

    def close(self) -> None:
        """Give the connections back; what is used later, as the buttons of a notebook's plan, opens new ones."""
        if database := self.__dict__.pop("database", None):
            database.close()

    def __enter__(self) -> Self:
        self._is_closed = False
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_closed = True
        if database := self.__dict__.pop("database", None):
            database.close(for_good=True)


def find_inactive(tenants: Sequence[Tenant]) -> dict[str, str]:
    """Return the status of each tenant that is not active, by name."""
    return {tenant.slug: tenant.status for tenant in tenants if not tenant.is_active}


def _matching(tenants: Sequence[Tenant], names: Sequence[str]) -> list[Tenant]:
    """Return the tenants that names or patterns choose, each once, in the order of the names."""
    chosen: dict[str, Tenant] = {}
    for name in names:
        found = [tenant for tenant in tenants if tenant.slug == name or fnmatchcase(tenant.slug, name)]
        if not found:
            raise UsageError(f"no tenant is named {name!r}; erpkit tenants list shows all")
        chosen |= {tenant.slug: tenant for tenant in found}
    return list(chosen.values())
