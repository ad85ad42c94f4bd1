"""How much memory the backends hold after a sweep over many tenants.

python -m tests.benchmarks.bench_memory [TENANTS]
"""

from __future__ import annotations

import sys
from pathlib import Path

from erpkit.database import Database
from erpkit.tenants import across
from tests.benchmarks.bench_tenancy import QUERY, _tenants

QUERIES = (QUERY, "SELECT id FROM b", "SELECT id FROM c")


def main(count: int) -> None:
    with _tenants(count) as (database, tenants):
        peak = 0.0
        for start in range(0, count, 100):
            hundred = tenants[start : start + 100]
            for query in QUERIES:
                assert not across(database, query, tenants=hundred, timeout=600).errors
            for tenant in hundred:
                with database.tenant_transaction(tenant) as connection:
                    for query in QUERIES:
                        connection.execute(query.encode())
            peak = max(peak, *_backends(database))
        print(
            f"{count} tenants swept, three tables each; the largest backend held {peak:.0f} MB of its own (limit 200)"
        )


def _backends(database: Database) -> list[float]:
    """Return the anonymous memory of each of the pool's backends in MB: what is not shared with the other ones."""
    with database.connection() as connection:
        pids = connection.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'erpkit'").fetchall()
    status = (Path(f"/proc/{pid}/status").read_text() for (pid,) in pids)
    return [int(text.split("RssAnon:")[1].split()[0]) / 1024 for text in status]


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5000)
