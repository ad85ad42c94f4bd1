"""A tenant that is skipped because of its status is named; one that was asked for by name is a problem."""

from collections.abc import Iterator

import pytest

import erpkit as kit
from erpkit.database import Database
from erpkit.modules import Registry
from erpkit.sample.demo import Planted
from tests.command import erpkit
from tests.conftest import plant_copy

COMMANDS = (
    "events lag", "events replay", "events watermill", "events dispatch --once", "events dead-letters retry",
    "migrate plan", "migrate up",
)  # fmt: skip


@pytest.fixture(scope="module")
def planted(shared_database: Database, registry: Registry) -> Iterator[Planted]:
    planted = plant_copy(shared_database, registry, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ERPKIT_DATABASE", shared_database.conninfo)
        patch.setenv("ERPKIT_MODULES", "erpkit.sample")
        yield planted


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_names_the_tenant_that_it_skips_and_ends_with_3_where_it_was_asked_for(
    command: str, planted: Planted
) -> None:
    everyone = erpkit(*command.split(), "-o", "table")
    assert planted.suspended in everyone.stdout
    assert "suspended" in everyone.stdout
    alone = erpkit(*command.split(), "-o", "table", "--tenant", planted.suspended)
    assert (alone.returncode, f"! {planted.suspended}: " in alone.stdout) == (3, True), alone.stdout + alone.stderr
    assert "there are no" not in alone.stdout


def test_a_query_in_a_skipped_tenant_is_a_problem_only_if_it_was_asked_for_by_name(planted: Planted) -> None:
    with kit.open() as erp:
        asked, matched = (
            erp.query("SELECT 1", tenants=[name]) for name in (planted.suspended, planted.suspended[:-1] + "?")
        )
        assert [(one.subject, one.severity) for one in asked.findings] == [(planted.suspended, "warning")]
        assert [one.kind for one in matched.findings if one.severity == "warning"] == ["no tenants"]
        assert {one.severity for one in erp.query("SELECT 1").findings} == {"info"}


def test_where_no_tenant_is_active_nothing_was_looked_at(planted: Planted) -> None:
    pattern = planted.suspended[:-1] + "?"
    for command in ("events lag", "events replay", "migrate plan"):
        done = erpkit(*command.split(), "-o", "table", "--tenant", pattern)
        assert (done.returncode, "no active tenants" in done.stdout) == (3, True), done.stdout
    done = erpkit("events", "dispatch", "--once", "-o", "table", "--tenant", pattern)
    assert (done.returncode, f"erpkit tenants activate {planted.suspended}" in done.stdout) == (3, True), done.stdout
