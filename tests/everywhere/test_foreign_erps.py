"""Real ERPs of django-tenants and of Alembic: from erpkit doctor to a report in three commands, and all that reads.

They need Django and Alembic themselves, and take minutes: `pytest tests/everywhere`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from erpkit.embedded import EmbeddedServer
from erpkit.runs import list_notebooks
from tests.command import erpkit
from tests.everywhere.foreign_erps import ALEMBIC_TENANTS, DJANGO_TENANTS, make_alembic, make_django
from tests.situations import empty_database

REFUSED = ("event_health", "provision_tenant", "offboard_tenant", "rebuild_projection", "replay_events")


@dataclass(frozen=True)
class Fleet:
    """A fleet of twenty tenants: its variables, its tenants, and what is told of the last one, which is behind."""

    environ: dict[str, str]
    tenants: tuple[str, ...]
    behind: str


@pytest.fixture(scope="module", params=["django", "alembic"])
def fleet(
    request: pytest.FixtureRequest, server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """Each fleet in turn, as whoever owns it has it: with nothing but the database configured."""
    name, folder = f"fleet_{request.param}", tmp_path_factory.mktemp(request.param)
    with empty_database(server, name) as environ:
        database = {"ERPKIT_DATABASE": environ["ERPKIT_DATABASE"]}
        if request.param == "django":
            make_django(folder, environ["ERPKIT_DATABASE"])
            yield Fleet(database, DJANGO_TENANTS, "Django: lacks shop.0002_note, which Bäckerei-Süd has")
        else:
            make_alembic(folder, environ["ERPKIT_DATABASE"])
            yield Fleet(database, ALEMBIC_TENANTS, "Alembic: is at 3f2a, most (19 of 20) at 9b1c")


@pytest.fixture(scope="module")
def configured(fleet: Fleet) -> dict[str, str]:
    """The variables after what the doctor said was pasted."""
    document = json.loads(erpkit("doctor", "--json", **fleet.environ).stdout)
    return fleet.environ | {"ERPKIT_TENANTS_QUERY": document["tenants_query"]}


def test_three_commands_lead_from_nothing_to_a_report_about_all_tenants(fleet: Fleet, tmp_path: Path) -> None:
    looked = erpkit("doctor", **fleet.environ)
    assert looked.returncode == 0, looked.stdout
    assert "20 of 20" in looked.stdout
    lines = [line.strip() for line in looked.stderr.partition("Next:\n")[2].splitlines()]
    assert [line.partition("=")[0] for line in lines] == ["export ERPKIT_TENANTS_QUERY", "erpkit run inspect_tenants"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    pasted = subprocess.run(
        ["bash", "-c", "\n".join(lines)], cwd=tmp_path, env=os.environ | fleet.environ | {"PATH": path}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert pasted.returncode == 3, pasted.stderr
    assert fleet.behind in pasted.stderr
    (report,) = tmp_path.glob("runs/inspect_tenants-*.html")
    page = report.read_text()
    assert all(tenant in page for tenant in fleet.tenants)


def test_every_reading_command_works(fleet: Fleet, configured: dict[str, str], tmp_path: Path) -> None:
    first, last = fleet.tenants[0], fleet.tenants[-1]
    commands: list[tuple[tuple[str, ...], int, str]] = [
        (("doctor",), 0, "20 by ERPKIT_TENANTS_QUERY"),
        (("tenants", "list"), 0, last),
        (("tenants", "inspect"), 3, fleet.behind),
        (("tenants", "inspect", first), 0, "rows"),
        (("tenants", "inspect", last), 3, fleet.behind),
        (("tenants", "drift"), 3, last),
        (("tenants", "drift", "--ddl", last), 3, last),
        (("tenants", "drift", "--against", first), 3, last),
        (("migrate", "status"), 3, fleet.behind),
        (("migrate", "status", "--tenant", first), 0, first),
        (("migrate", "status", "--against", "majority"), 3, last),
        (("migrate", "plan"), 0, fleet.behind),
        (("migrate", "history"), 0, "migrated nothing"),
        (("modules", "list"), 0, "ERPKIT_MODULES"),
        (("runs",), 0, "run"),  # none, or those of the test before this one
    ]
    for command, code, words in commands:
        done = erpkit(*command, "-o", "table", **configured)
        assert "Traceback" not in done.stderr, (command, done.stderr)
        assert words in done.stdout + done.stderr, (command, done.stdout, done.stderr)
        assert done.returncode == code, (command, done.stdout, done.stderr)
    for command in (("tenants", "create", "acme"), ("tenants", "suspend", first), ("migrate", "up"), ("events", "lag")):
        assert erpkit(*command, **configured).returncode == 2, command


def test_queries_are_checked_in_every_tenant(fleet: Fleet, configured: dict[str, str], tmp_path: Path) -> None:
    table = "shop_order" if "Django" in fleet.behind else "orders"
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql" / "orders.sql").write_text(
        f"-- name: Totals :many\nSELECT id, total FROM {table} WHERE total > @least;"
    )
    (tmp_path / "modules.toml").write_text(f'[[module]]\nname = "shop"\ntables = ["{table}"]\nqueries = "sql"\n')
    environ = configured | {"ERPKIT_MODULES": str(tmp_path / "modules.toml")}
    done = erpkit("queries", "check", "-o", "table", **environ)
    assert "1 query in 20 tenants: 0 broken" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize("name", list_notebooks())
def test_every_notebook_reads_or_refuses_in_one_line(
    name: str, configured: dict[str, str], fleet: Fleet, tmp_path: Path
) -> None:
    done = erpkit("run", name, "--output", str(tmp_path), "--json", **configured)
    if name in REFUSED:
        assert done.returncode == 2, done.stdout
        return
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["exit_code"] in (0, 2, 3), result["error"]
    if name in ("inspect_tenants", "run_migrations"):
        assert result["exit_code"] == 3
        assert any(fleet.behind in finding for finding in result["findings"]), result["findings"]
    if name == "explore_tenants":
        assert result["exit_code"] == 0
    for page in (result["output"], result["report"]):
        assert "Traceback (most recent call last)" not in Path(page).read_text()


def test_nothing_of_theirs_was_changed(fleet: Fleet, configured: dict[str, str]) -> None:
    """All the above ran before it, and no table of erpkit's is there."""
    erpkit("tenants", "inspect", **configured)
    with psycopg.connect(fleet.environ["ERPKIT_DATABASE"]) as connection:
        rows = connection.execute(
            "SELECT relname FROM pg_class WHERE relname LIKE '%erpkit%' OR relname = 'tenants'"
        ).fetchall()
    assert rows == []
