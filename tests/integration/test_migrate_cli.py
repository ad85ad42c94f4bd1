"""erpkit migrate for machines: what it prints as JSON, and its exit codes."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from erpkit.database import Database
from erpkit.tenants import create_tenant
from tests.command import erpkit
from tests.integration.fleet import MODULE, steps, write_module

Run = Callable[..., "CompletedProcess[str]"]


@pytest.fixture
def run(database: Database, tmp_path: Path) -> Run:
    """Run `erpkit migrate … --json` on two tenants, and a module with two migrations that they do not have."""
    _, environ = write_module(tmp_path, steps(2))
    for slug in ("acme", "bluebird"):
        create_tenant(database, [], slug)
    return lambda *arguments: erpkit("migrate", *arguments, "--json", **environ, ERPKIT_DATABASE=database.conninfo)


def told(done: "CompletedProcess[str]") -> Any:
    return json.loads(done.stdout)


def test_up_down_and_redo_tell_their_plan_and_what_became_of_it(run: Run) -> None:
    plan = told(run("up"))
    assert {(step["wave"], step["tenant"]) for step in plan["steps"]} == {
        ("tenants", "acme"),
        ("tenants", "bluebird"),
    } | {("_template", "_template")}
    done = run("up", "--confirm", plan["id"])
    assert done.returncode == 0
    first, *_ = told(done)["results"]
    assert (first["tenant"], first["error"]) == ("_template", None)
    assert {f"{MODULE}/00001_step", f"{MODULE}/00002_step"} <= set(first["done"])
    for verb, options in (("redo", ()), ("down", ("--to", "0"))):
        command = (verb, "--module", MODULE, "--tenant", "acme", *options)
        again = run(*command, "--confirm", told(run(*command))["id"])
        assert (again.returncode, told(again)["done"]) == (0, 2)


def test_a_tenant_that_fails_ends_the_command_with_1_and_is_named(run: Run, database: Database) -> None:
    with database.connection() as connection:
        connection.execute("CREATE TABLE tenant_bluebird.b2 ()")
    done = run("up", "--confirm", told(run("up"))["id"])
    assert done.returncode == 1
    failed = [result for result in told(done)["results"] if result["error"]]
    assert [result["tenant"] for result in failed] == ["bluebird"]
    assert failed[0]["error"] == 'tenant bluebird: stock/00002_step.sql failed: relation "b2" already exists'
    assert failed[0]["done"][-1] == "stock/00001_step"
