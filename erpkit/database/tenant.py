"""What a tenant is: a schema of its own, with a name that PostgreSQL can be trusted with, and a role."""

from __future__ import annotations

import re
from dataclasses import dataclass

from erpkit.errors import UsageError

_SCHEMA_NAME = re.compile(r"_template|(?!pg_)[a-z][a-z0-9_]{0,62}", re.ASCII)


def check_schema_name(name: str) -> str:
    """Return `name` if it may name a tenant's schema; raise UsageError if not.

    Lower-case ASCII letters, digits and underscores, a letter first, at most 63 of them, and not `pg_…`, which PostgreSQL
    keeps for itself. A name that passes needs no quoting, and is quoted all the same.
    """
    if not _SCHEMA_NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no schema name: use a-z, 0-9 and _, a letter first, at most 63 characters, not pg_…"
        )
    return name


@dataclass(frozen=True)
class Tenant:
    """One customer of the ERP: a schema of its own, and a role that may use nothing else."""

    slug: str
    schema: str
    role: str | None = None
    name: str = ""
    status: str = "active"

    @property
    def reader(self) -> str | None:
        """The role that may read its schema and nothing else; whatever only reads runs under it."""
        return f"{self.role}.read" if self.role is not None else None

    @property
    def is_active(self) -> bool:
        """Whether operations on the whole fleet include it."""
        return self.status == "active"


TEMPLATE = Tenant(slug="_template", schema="_template", name="canonical schema")
