"""Every notebook where there is nothing, little or not all to be read: it ends truly, and never green over nothing.

It takes minutes, so that the daily suite leaves it out: `pytest --dist=worksteal tests/everywhere`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from erpkit.database import Database
from erpkit.modules import Registry
from erpkit.runs import list_notebooks
from erpkit.tenants import list_tenants
from tests.command import erpkit
from tests.conftest import plant_copy
from tests.situations import analyst_login

NOTEBOOKS = list_notebooks()
UNREAD = "bluebird"

# These may end with 0 where there is nothing: a list, the plan of a first tenant, and what works on a database of its own.
FINE_OVER_NOTHING = {"run_history", "provision_tenant"}
ON_A_SCRATCH_DATABASE = ("runbooks/", "guide/")


@pytest.fixture(scope="module")
def planted(shared_database: Database, registry: Registry) -> Database:
    """Four tenants of the sample ERP."""
    plant_copy(shared_database, registry)
    return shared_database


@pytest.fixture
def analyst(planted: Database) -> Iterator[dict[str, str]]:
    """A login that is an analyst and nothing else."""
    with analyst_login(planted, "analyst_alone") as environ:
        yield environ


@pytest.fixture
def unread(planted: Database) -> Iterator[dict[str, str]]:
    """An analyst's login that may read all tenants but one."""
    with planted.connection() as connection:
        (tenant,) = [each for each in list_tenants(connection) if each.slug == UNREAD]
    with analyst_login(planted, "reads_all_but_one", tenant) as environ:
        yield environ


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_over_nothing(name: str, nothing: dict[str, str], tmp_path: Path) -> None:
    result = _run(name, nothing, tmp_path)
    if name not in FINE_OVER_NOTHING and not name.startswith(ON_A_SCRATCH_DATABASE):
        assert result["exit_code"] != 0, "green over nothing"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_in_another_erp(name: str, foreign: dict[str, str], tmp_path: Path) -> None:
    result = _run(name, foreign, tmp_path)
    if name in ("event_health", "rebuild_projection", "replay_events", "provision_tenant", "offboard_tenant"):
        assert result["exit_code"] == 2, "what this ERP cannot have was not refused"
    if name == "check_modules":
        assert result["exit_code"] == 3, "no modules are not sound modules"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_with_one_tenant_that_may_not_be_read(name: str, unread: dict[str, str], tmp_path: Path) -> None:
    result = _run(name, unread, tmp_path)
    if name in ("event_health", "explore_tenants", "inspect_tenants", "replay_events", "run_migrations"):
        assert result["exit_code"] != 0, "green although a tenant was not read"
        assert UNREAD in json.dumps(result), "it does not say which"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_as_an_analyst(name: str, analyst: dict[str, str], tmp_path: Path) -> None:
    _run(name, analyst, tmp_path)


def _run(name: str, environ: dict[str, str], folder: Path) -> dict[str, Any]:
    """Run a notebook with its defaults; it is ok, has findings, or refuses in one line, and no page of it shows a traceback."""
    done = erpkit("run", name, "--output", str(folder), "--json", **environ)
    if not done.stdout:  # nothing was started
        lines = [line for line in done.stderr.splitlines() if not line.startswith("target: ")]
        assert (done.returncode, len(lines)) == (2, 1), done.stderr
        return {"exit_code": 2, "error": lines[0]}
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["exit_code"] == done.returncode
    assert result["exit_code"] in (0, 2, 3), result["error"]
    for page in (result["output"], result["report"]):
        assert "Traceback (most recent call last)" not in Path(page).read_text()
    assert (result["exit_code"] == 3) == bool(result["findings"] and result["outcome"] == "findings")
    return result
