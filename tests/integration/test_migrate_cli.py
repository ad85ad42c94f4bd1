"""erpkit migrate for machines: what it prints as JSON, and its exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from erpkit.cli import migrate
from erpkit.database import Database
from erpkit.tenants import create_tenant
from tests.integration.fleet import MODULE, steps, write_module


@pytest.fixture
def environment(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tenants, and a module with two migrations that they do not have."""
    _, environ = write_module(tmp_path, steps(2))
    monkeypatch.syspath_prepend(tmp_path)
    for name, value in ({"ERPKIT_DATABASE": database.conninfo} | environ).items():
        monkeypatch.setenv(name, value)
    for slug in ("acme", "bluebird"):
        create_tenant(database, [], slug)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(migrate.command, [*arguments, "--json"], standalone_mode=False)


def told(done: Result) -> Any:
    return json.loads(done.stdout)


@pytest.mark.usefixtures("environment")
def test_up_down_and_redo_tell_their_plan_and_what_became_of_it() -> None:
    plan = told(run("up"))
    assert {(step["wave"], step["tenant"]) for step in plan["steps"]} == {
        ("tenants", "acme"),
        ("tenants", "bluebird"),
    } | {("_template", "_template")}
    done = run("up", "--confirm", plan["id"])
    assert done.return_value == 0
    first, *_ = told(done)["results"]
    assert (first["tenant"], first["error"]) == ("_template", None)
    assert {f"{MODULE}/00001_step", f"{MODULE}/00002_step"} <= set(first["done"])
    for verb, options in (("redo", ()), ("down", ("--to", "0"))):
        command = (verb, "--module", MODULE, "--tenant", "acme", *options)
        again = run(*command, "--confirm", told(run(*command))["id"])
        assert (again.return_value, told(again)["done"]) == (0, 2)


@pytest.mark.usefixtures("environment")
def test_a_tenant_that_fails_ends_the_command_with_1_and_is_named(database: Database) -> None:
    with database.connection() as connection:
        connection.execute("CREATE TABLE tenant_bluebird.b2 ()")
    done = run("up", "--confirm", told(run("up"))["id"])
    assert done.return_value == 1
    failed = [result for result in told(done)["results"] if result["error"]]
    assert [result["tenant"] for result in failed] == ["bluebird"]
    assert failed[0]["error"] == 'tenant bluebird: stock/00002_step.sql failed: relation "b2" already exists'
    assert failed[0]["done"][-1] == "stock/00001_step"
