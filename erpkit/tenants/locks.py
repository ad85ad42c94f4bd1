"""Who keeps a schema's tables locked so that nobody else can even read what they consist of."""

from __future__ import annotations

from collections.abc import Sequence

from erpkit.database import Connection

__all__ = ["read_locks"]

# Whoever waits for such a lock is in the way as well: all that come later queue up behind.
_LOCKS = """
SELECT n.nspname, (array_agg(format('table %%s is locked by %%s', quote_ident(c.relname), h.holder)
                             ORDER BY l.granted DESC, c.relkind = 'r' DESC, c.relname))[1]
  FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_stat_activity a ON a.pid = l.pid
 CROSS JOIN LATERAL (SELECT CASE WHEN l.pid IS NULL THEN 'a prepared transaction' ELSE format('process %%s (%%s)', l.pid,
                     concat_ws(', ', nullif(a.usename, ''), nullif(a.application_name, ''), a.state)) END AS holder) h
 WHERE l.mode = 'AccessExclusiveLock' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND l.pid IS DISTINCT FROM pg_backend_pid() AND n.nspname = ANY(%s)
 GROUP BY 1
"""


def read_locks(connection: Connection, schemas: Sequence[str]) -> dict[str, str]:
    """Return, for those of `schemas` in which somebody else locks a table exclusively, which one and who, as a clause."""
    return dict(connection.execute(_LOCKS, [list(schemas)]).fetchall())
