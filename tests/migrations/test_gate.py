"""Who must show that the files work before others get them, and what happens to the plan when they cannot."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from erpkit.database import TEMPLATE, Database, Tenant
from erpkit.errors import MigrationError
from erpkit.migrations import Applied, plan_down, plan_redo, plan_up, run_plan
from erpkit.tenants import create_tenant, ensure_template, list_tenants, plan_provision, provision_tenant
from erpkit.tenants.lifecycle import prepare_database
from tests.command import erpkit
from tests.migrations.fleet import (
    CONCURRENTLY,
    MODULE,
    TABLE,
    errors,
    migrate,
    migration,
    plan_for,
    step,
    steps,
    versions,
    write_module,
)  # fmt: skip

ACME, BETA, CAN = (Tenant(slug, f"tenant_{slug}") for slug in ("acme", "beta", "can"))
FLEET = [TEMPLATE, ACME, BETA, CAN]
FILES = [step(1), step(2), step(3)]


def applied(**versions: tuple[int, ...]) -> dict[tuple[str, str], tuple[int, ...]]:
    return {(name if name == "_template" else f"tenant_{name}", TABLE): found for name, found in versions.items()}


AT_ONE = applied(_template=(1,), acme=(1,), beta=(1,), can=(1,))
TROUBLES = {
    "dirty": Applied(
        AT_ONE, dirty={("_template", TABLE): {2: "stock 2 (up)"}, ("tenant_can", TABLE): {2: "stock 2 (up)"}}
    ),
    "out of order": Applied(AT_ONE | applied(_template=(1, 3), can=(1, 3))),
    "edited": Applied(
        AT_ONE | applied(_template=(1, 2), can=(1, 2)), {("_template", TABLE): (2,), ("tenant_can", TABLE): (2,)}
    ),
    "unknown": Applied(AT_ONE | applied(_template=(1, 9), can=(1, 9))),
    "its schema": Applied(AT_ONE, unread={"_template": "its schema is gone", "can": "its schema is gone"}),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_template_that_is_refused_ends_the_plan(trouble: str) -> None:
    plan = plan_up(FLEET, FILES, TROUBLES[trouble])
    assert plan.refused["_template"].startswith(trouble)
    assert plan.is_empty
    assert plan.held["acme"] == plan.held["beta"] == "the plan ends at _template, which is refused"


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_canary_that_is_refused_ends_the_plan_after_the_template_and_the_other_canaries(trouble: str) -> None:
    plan = plan_up([ACME, BETA, CAN], FILES, TROUBLES[trouble], canaries=["can", "beta"])
    assert plan.refused["can"].startswith(trouble)
    assert [(wave.name, [p.tenant.slug for p in wave.tenants]) for wave in plan.waves] == [("canaries", ["beta"])]
    assert plan.held == {"acme": "the plan ends at can, which is refused"}
    assert [(f.kind, f.subject) for f in plan.refusals if f.kind == "held"] == [("held", "acme")]


def test_a_canary_that_is_suspended_shows_nothing_and_ends_the_plan() -> None:
    suspended = Tenant("can", "tenant_can", status="suspended")
    plan = plan_up([ACME, suspended], FILES, Applied(AT_ONE), canaries=["can"])
    assert plan.refused == {"can": "suspended: a canary must be active"}
    assert plan.is_empty


def test_a_tenant_that_is_no_gate_is_refused_alone() -> None:
    found = Applied(AT_ONE, dirty={("tenant_acme", TABLE): {2: "stock 2 (up)"}})
    plan = plan_up(FLEET, FILES, found, canaries=["can"])
    assert [p.tenant.slug for p in plan.tenants] == ["_template", "can", "beta"]
    assert not plan.held


def test_an_edited_file_that_nobody_else_would_get_does_not_end_the_plan() -> None:
    found = Applied(AT_ONE, {("_template", TABLE): (1,)})
    assert not plan_up(FLEET, FILES, found).held


def test_versions_that_were_merged_into_a_later_file_do_not_end_the_plan() -> None:
    found = Applied(applied(_template=(1, 2), acme=(1, 2), beta=(1, 2), can=(1, 2)))
    assert not plan_up(FLEET, [step(2), step(3)], found).refused


def test_redo_and_down_end_at_the_template_too() -> None:
    nothing = Applied(AT_ONE | applied(_template=()))
    assert plan_redo(FLEET, FILES, nothing, MODULE).is_empty
    assert plan_down(FLEET, [step(2)], Applied(AT_ONE), MODULE, 0).is_empty


def test_the_id_changes_with_what_decides_how_a_file_is_run() -> None:
    """A transaction more or less is not seen in the statements."""
    alone = migration(1, "SELECT 1;", head=CONCURRENTLY)
    assert plan_up([ACME], [alone], Applied()).id != plan_up([ACME], [migration(1, "SELECT 1;")], Applied()).id


HALF = migration(2, "CREATE TABLE half (a int);\nSELECT 1 / 0;", head=CONCURRENTLY)


def _erpkit(run: Callable[..., Any], *options: str) -> tuple[int, Any]:
    """Do what a person does: look at the plan, confirm it, and read the plan that follows."""
    done = run("up", *options, "--confirm", json.loads(run("up", *options).stdout)["id"])
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("gate", ["_template", "acme"])
def test_however_often_a_failed_file_is_run_again_it_reaches_nobody_behind_the_gate(
    database: Database, tmp_path: Path, gate: str
) -> None:
    folder, environ = write_module(tmp_path, [step(1)])
    for slug in ("acme", "beta", "zeta"):
        create_tenant(database, [], slug)

    def run(*arguments: str) -> "CompletedProcess[str]":
        return erpkit("migrate", *arguments, "--json", **environ, ERPKIT_DATABASE=database.conninfo)

    assert _erpkit(run)[0] == 0
    (folder / HALF.path.name).write_text(HALF.text)
    if gate == "acme":
        with database.connection() as connection:  # as after a run by hand
            connection.execute(f"INSERT INTO _template.{TABLE} (version_id, is_applied) VALUES (2, true)".encode())
    for options in ((), (), ("--retry-dirty",), (), ("--tenant", "acme", "--tenant", "zeta"), ()):
        code, told = _erpkit(run, "--canary", "acme", *options)
        assert code == 1
        assert {result["tenant"] for result in told["results"]} <= {gate}
    with database.connection() as connection:
        rows = connection.execute("SELECT schemaname FROM pg_tables WHERE tablename = 'half'").fetchall()
    assert rows == [("_template" if gate == "_template" else "tenant_acme",)]


def test_a_tenant_that_another_runner_left_dirty_since_the_plan_was_made_fails_and_ends_the_run(
    database: Database,
) -> None:
    fleet = [create_tenant(database, [], slug) for slug in ("acme", "beta")]
    plan = plan_for(database, fleet, steps(1), canaries=["acme"])
    migrate(database, fleet[:1], [migration(7, "SELECT 1 / 0;", head=CONCURRENTLY, table="goose_db_version_other")])
    run = run_plan(database, plan, plan.id)
    assert list(errors(run)) == ["acme"]
    assert "dirty: stock 7 (up)" in errors(run)["acme"]
    assert run.not_started == {"beta": "1 of 1 failed in the wave canaries"}
    assert set(versions(database, fleet).values()) == {()}


def test_retrying_what_is_dirty_does_not_retry_what_became_dirty_meanwhile(database: Database) -> None:
    """Who says that it is mended cannot have known of it."""
    fleet = [create_tenant(database, [], "acme")]
    migrate(database, fleet, [step(1), HALF])
    with database.connection() as connection:
        connection.execute("DROP TABLE tenant_acme.half")
    run = migrate(database, fleet, [step(1), HALF], retry_dirty=True)
    assert "division by zero" in errors(run)["acme"]
    again = migrate(database, fleet, [step(1), HALF], retry_dirty=True)
    assert 'relation "half" already exists' in errors(again)["acme"]


def test_a_new_tenant_is_not_made_while_the_template_is_refused(database: Database) -> None:
    with database.connection() as connection:
        template = ensure_template(connection)
        prepare_database(connection)
    migrate(database, [template], [step(1), HALF])
    with database.connection() as connection:
        plan = plan_provision(connection, [step(1)], "acme")
    with pytest.raises(MigrationError, match="tenant _template: dirty: stock 2 .* acme was not created"):
        provision_tenant(database, plan, plan.id)
    with database.connection() as connection:
        assert list_tenants(connection) == []
