"""Where the database, the modules and the outputs are: read once from the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Settings"]

_LIBPQ_TARGETS = ("PGSERVICE", "PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE")


@dataclass(frozen=True)
class Settings:
    """What erpkit was told of its surroundings.

    `database` is a libpq connection string or URL; "" leaves everything to libpq's own `PG*` variables; None means the
    embedded server. It may hold a password, so it is never shown. `modules` is an entry-point group, or None for the default.
    `tenants_query` lists the tenants of an ERP that erpkit did not make; None means `public.tenants`.
    """

    database: str | None = field(default=None, repr=False)
    home: Path = Path()
    modules: str | None = None
    tenants_query: str | None = None

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read `ERPKIT_DATABASE` (else libpq's variables, else embedded), `ERPKIT_HOME`, `ERPKIT_MODULES`, `ERPKIT_TENANTS_QUERY`."""
        env = os.environ if environ is None else environ
        return cls(
            database=env.get("ERPKIT_DATABASE") or _libpq_database(env),
            home=Path(env["ERPKIT_HOME"]).expanduser().absolute() if env.get("ERPKIT_HOME") else _default_home(),
            modules=env.get("ERPKIT_MODULES") or None,
            tenants_query=env.get("ERPKIT_TENANTS_QUERY") or None,
        )

    @property
    def is_embedded(self) -> bool:
        """Whether the embedded server is used because no database is configured."""
        return self.database is None


def _libpq_database(env: Mapping[str, str]) -> str | None:
    return "" if any(env.get(name) for name in _LIBPQ_TARGETS) else None


def _default_home() -> Path:
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/erpkit")  # a server that runs under a user of its own cannot reach into a private home
    from platformdirs import user_data_path  # noqa: PLC0415 - only needed where ERPKIT_HOME is not set

    return user_data_path("erpkit")
