"""What a tenant is: a schema of its own, with a name that PostgreSQL can be trusted with, and a role."""

from __future__ import annotations

import re
from dataclasses import dataclass

from erpkit.errors import UsageError

__all__ = ["TEMPLATE", "Tenant", "check_quotable", "check_schema_name"]

_SCHEMA_NAME = re.compile(r"_template|(?!pg_)[a-z][a-z0-9_]{0,62}", re.ASCII)
# Without what could end a quote of either kind, or be taken for a placeholder.
_QUOTABLE = re.compile(r"""(?!pg_|information_schema\Z)[^'"\\$%\x00-\x1f\x7f]+""")
_NAME_LIMIT = 63  # bytes


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


def check_quotable(name: str) -> str:
    """Return `name` if a schema of an adopted tenant may have it: it can be put between quotes of either kind as it is.

    Capitals, hyphens, dots and blanks are fine. Raises UsageError for quotes, backslashes, `$`, `%`, control characters, and for
    what PostgreSQL keeps for itself.
    """
    if not _QUOTABLE.fullmatch(name) or len(name.encode()) > _NAME_LIMIT:
        raise UsageError(
            f"{name!r} is no schema name that erpkit can migrate: it may hold no quote, backslash, $, % or control character, "
            "and not begin with pg_"
        )
    return name


@dataclass(frozen=True)
class Tenant:
    """One customer of the ERP: a schema of its own, and a role that may use nothing else.

    `owner` is the ERP's own login, for a tenant that erpkit adopted: what erpkit makes in the schema is made as this role.
    """

    slug: str
    schema: str
    role: str | None = None
    name: str = ""
    status: str = "active"
    owner: str | None = None

    @property
    def reader(self) -> str | None:
        """The role that may read its schema and nothing else; whatever only reads runs under it."""
        return f"{self.role}.read" if self.role is not None else None

    @property
    def is_active(self) -> bool:
        """Whether operations on the whole fleet include it."""
        return self.status == "active"


TEMPLATE = Tenant(slug="_template", schema="_template", name="canonical schema")
