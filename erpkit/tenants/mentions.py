"""What still names a tenant's old schema in its text after the schema got another name."""

from __future__ import annotations

import re
from dataclasses import dataclass

from erpkit.database import Connection, Tenant

__all__ = ["Mention", "MovedTenant", "find_mentions"]

# Each text as it is after the move: what PostgreSQL keeps by object id shows the new name there.
_TEXTS = """
WITH home AS (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s),
texts (class, object, part, text) AS (
  SELECT 'pg_proc'::regclass, p.oid, 0,
      concat_ws(E'\\n', p.prosrc, array_to_string(p.proconfig, E'\\n'), pg_get_function_arguments(p.oid))
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
  WHERE (n.oid IN (SELECT oid FROM home) OR %(everywhere)s) AND n.nspname NOT IN ('pg_catalog', 'information_schema')
UNION ALL
  SELECT 'pg_class'::regclass, c.oid, 0, pg_get_viewdef(c.oid)
  FROM pg_class c JOIN home ON home.oid = c.relnamespace WHERE c.relkind IN ('v', 'm')
UNION ALL
  SELECT 'pg_class'::regclass, c.oid, 0, pg_get_indexdef(c.oid)
  FROM pg_class c JOIN home ON home.oid = c.relnamespace WHERE c.relkind IN ('i', 'I')
UNION ALL
  SELECT 'pg_attrdef'::regclass, d.oid, 0, pg_get_expr(d.adbin, d.adrelid)
  FROM pg_attrdef d JOIN pg_class c ON c.oid = d.adrelid JOIN home ON home.oid = c.relnamespace
UNION ALL
  SELECT 'pg_constraint'::regclass, o.oid, 0, pg_get_constraintdef(o.oid)
  FROM pg_constraint o JOIN home ON home.oid = o.connamespace WHERE o.contype = 'c'
UNION ALL
  SELECT 'pg_policy'::regclass, y.oid, 0,
      concat_ws(E'\\n', pg_get_expr(y.polqual, y.polrelid), pg_get_expr(y.polwithcheck, y.polrelid))
  FROM pg_policy y JOIN pg_class c ON c.oid = y.polrelid JOIN home ON home.oid = c.relnamespace
UNION ALL
  SELECT 'pg_trigger'::regclass, g.oid, 0, pg_get_triggerdef(g.oid)
  FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid JOIN home ON home.oid = c.relnamespace WHERE NOT g.tgisinternal
UNION ALL
  SELECT 'pg_rewrite'::regclass, w.oid, 0, pg_get_ruledef(w.oid)
  FROM pg_rewrite w JOIN pg_class c ON c.oid = w.ev_class JOIN home ON home.oid = c.relnamespace WHERE w.rulename <> '_RETURN'
)
SELECT pg_describe_object(class, object, part), text FROM texts WHERE text ~ %(pattern)s ORDER BY 1
"""


@dataclass(frozen=True)
class Mention:
    """An object whose text names a schema that is gone, or another tenant's by now: `line` is the first that does."""

    object: str
    line: str

    def __str__(self) -> str:
        return f"{self.object}: {self.line}"


@dataclass(frozen=True)
class MovedTenant:
    """A tenant under its new name, and what an operator has to rewrite by hand before it works there."""

    tenant: Tenant
    mentions: tuple[Mention, ...] = ()


def find_mentions(connection: Connection, old: str, new: str, *, everywhere: bool = False) -> tuple[Mention, ...]:
    """Return what names the schema `old` in the schema `new`, and with `everywhere` the functions of all other schemas.

    Looked through are the bodies, settings and defaults of functions, views, indexes, column defaults, checks, policies,
    triggers and rules. PostgreSQL keeps most references by object id, and these follow a move; function bodies and
    constants are text, and stay as they are (manual, ALTER SCHEMA). Not looked through are data and comments.
    """
    if old == new:
        return ()
    pattern = rf"\m{old}\M"
    rows = connection.execute(_TEXTS, {"schema": new, "everywhere": everywhere, "pattern": pattern}).fetchall()
    return tuple(Mention(described, _first_line(text, old)) for described, text in rows)


def _first_line(text: str, word: str) -> str:
    named = re.compile(rf"\b{word}\b", re.ASCII)
    return next((line.strip() for line in text.splitlines() if named.search(line)), "")
