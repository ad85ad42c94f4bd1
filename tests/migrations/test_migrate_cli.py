"""erpkit migrate for machines: what it prints as JSON, and its exit codes."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from erpkit.database import Database
from erpkit.tenants import create_tenant
from tests.command import erpkit, refused
from tests.migrations.fleet import MODULE, TABLE, steps, write_module

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
    assert failed[0]["error"] == (
        'tenant bluebird: stock/00002_step.sql failed: relation "b2" already exists; '
        "line 6: CREATE TABLE b2 (id int REFERENCES a2);"
    )
    assert failed[0]["done"][-1] == "stock/00001_step"


def test_over_no_tenants_nothing_is_green(database: Database, tmp_path: Path) -> None:
    _, environ = write_module(tmp_path, steps(1))

    def run(*arguments: str) -> "CompletedProcess[str]":
        return erpkit("migrate", *arguments, **environ, ERPKIT_DATABASE=database.conninfo)

    for command in ("status", "plan"):
        done = run(command, "-o", "table")
        assert (done.returncode, "! there are no tenants" in done.stdout) == (3, True), command
    assert "erpkit has migrated nothing here" in run("history").stderr
    plan = json.loads(run("plan", "--json").stdout)
    assert run("up", "--confirm", plan["id"]).returncode == 0  # `_template` alone
    assert run("status").returncode == 3
    assert run("up").returncode == 3


def test_an_erp_that_erpkit_only_reads_is_looked_at_and_not_migrated(database: Database, tmp_path: Path) -> None:
    _, environ = write_module(tmp_path, steps(1))
    with database.connection() as connection:
        connection.execute(f"CREATE SCHEMA kunde_a; CREATE SCHEMA kunde_b; CREATE TABLE kunde_a.{TABLE} "
                           "(id int, version_id bigint, is_applied bool); INSERT INTO kunde_a."
                           f"{TABLE} VALUES (1, 0, true), (2, 1, true)")  # fmt: skip
    query = (
        "SELECT nspname AS slug, nspname AS schema_name, nspname AS name FROM pg_namespace WHERE nspname LIKE 'kunde%'"
    )

    def run(*arguments: str) -> "CompletedProcess[str]":
        return erpkit(
            "migrate", *arguments, **environ, ERPKIT_DATABASE=database.conninfo, ERPKIT_TENANTS_QUERY=query
        )  # fmt: skip

    status = run("status", "-o", "table")
    assert (status.returncode, "! kunde_b: stock is at 0 and lacks 1" in status.stdout) == (3, True)
    assert "_template" not in status.stdout
    planned = run("plan")
    assert (planned.returncode, "--confirm" in planned.stderr) == (0, False)
    for command in (["up"], ["down", "--all", "--module", MODULE, "--to", "0"], ["redo", "--all", "--module", MODULE]):
        refused(run(*command), 2, "ERPKIT_TENANTS_QUERY is set")


def test_the_command_that_applies_a_plan_is_the_one_that_was_given(run: Run) -> None:
    told_command = run("plan", "--canary", "acme", "--module", MODULE).stderr
    plan = json.loads(run("plan", "--canary", "acme", "--module", MODULE).stdout)
    assert f"erpkit migrate up --canary acme --module {MODULE} --confirm {plan['id']}" in told_command
