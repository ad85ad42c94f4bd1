"""Planning is pure: tenants, files and versions in, steps out."""

from pathlib import Path

import pytest

from erpkit.database import TEMPLATE, Tenant
from erpkit.errors import MigrationError, PlanChangedError, UsageError
from erpkit.migrations import (
    Applied,
    Migration,
    collect_migrations,
    describe_status,
    estimate_plan,
    parse_migration,
    plan_down,
    plan_redo,
    plan_up,
)
from erpkit.migrations.parser import Direction
from erpkit.modules import Module


def migration(version: int, text: str = "SELECT 1;", module: str = "sales") -> Migration:
    return Migration(module, version, Path(f"{version:05}_step.sql"), parse_migration(f"-- +goose Up\n{text}"))


FILES = (migration(1), migration(2), migration(3))
ACME = Tenant("acme", "tenant_acme")
ZETA = Tenant("zeta", "tenant_zeta")
NOTHING = Applied()


def applied(**versions: tuple[int, ...]) -> Applied:
    return Applied({(f"tenant_{slug}", "goose_db_version_sales"): found for slug, found in versions.items()})


def test_the_template_comes_first_and_each_tenant_gets_what_it_lacks() -> None:
    plan = plan_up([ZETA, ACME, TEMPLATE], FILES, applied(acme=(1, 2), zeta=(1, 2, 3)))
    assert [(p.tenant.slug, [m.version for m in p.migrations]) for p in plan.tenants] == [
        ("_template", [1, 2, 3]),
        ("acme", [3]),
    ]


def test_a_suspended_tenant_is_skipped_with_the_reason() -> None:
    plan = plan_up([Tenant("acme", "tenant_acme", status="suspended")], FILES, NOTHING)
    assert plan.is_empty
    assert plan.skipped == {"acme": "suspended"}


def test_a_migration_below_the_highest_applied_one_refuses_its_tenant_only() -> None:
    plan = plan_up([ACME, ZETA], FILES, applied(acme=(1, 3)))
    assert plan.refused == {"acme": "out of order: sales/00002_step"}
    assert [p.tenant.slug for p in plan.tenants] == ["zeta"]


def test_the_id_changes_with_the_sql_and_with_the_tenants() -> None:
    plan = plan_up([ACME], FILES, NOTHING)
    assert plan.id == plan_up([ACME], FILES, NOTHING).id
    assert plan.id != plan_up([ACME, ZETA], FILES, NOTHING).id
    assert plan.id != plan_up([ACME], (*FILES[:2], migration(3, "SELECT 2;")), NOTHING).id


def test_another_id_is_refused() -> None:
    with pytest.raises(PlanChangedError, match="nothing was done"):
        plan_up([ACME], FILES, NOTHING).check("migrate-0000000000")


def test_down_undoes_in_the_reverse_order_of_application() -> None:
    plan = plan_down([ACME], FILES, applied(acme=(1, 3, 2)), "sales", 1)
    assert [m.version for m in plan.tenants[0].migrations] == [2, 3]


def test_status_names_what_is_pending_out_of_order_and_unknown() -> None:
    (status,) = describe_status([ACME], FILES, applied(acme=(1, 3, 9)))
    assert (status.pending, status.out_of_order, status.unknown, status.state) == ((2,), (2,), (9,), "unknown")


def test_files_are_sorted_by_version_and_others_left_alone(tmp_path: Path) -> None:
    for name in ("2_b.sql", "10_c.sql", "1_a.sql", "notes.sql", "x_y.sql", "3_z.txt"):
        (tmp_path / name).write_text("-- +goose Up\n")
    assert [m.version for m in collect_migrations(Module("sales", migrations=tmp_path))] == [1, 2, 10]


def test_two_files_of_one_version_are_refused_by_name(tmp_path: Path) -> None:
    for name in ("1_a.sql", "01_b.sql"):
        (tmp_path / name).write_text("-- +goose Up\n")
    with pytest.raises(MigrationError, match=r"1_a\.sql: version 1 is taken by 01_b\.sql"):
        collect_migrations(Module("sales", migrations=tmp_path))


def test_a_broken_file_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "1_a.sql").write_text("SELECT 1;")
    with pytest.raises(MigrationError, match=r"1_a\.sql: line 1"):
        collect_migrations(Module("sales", migrations=tmp_path))


def test_canaries_go_after_the_template_and_before_the_rest() -> None:
    plan = plan_up([ACME, ZETA, TEMPLATE], FILES, NOTHING, canaries=["zeta"])
    assert [(wave.name, [p.tenant.slug for p in wave.tenants]) for wave in plan.waves] == [
        ("_template", ["_template"]), ("canaries", ["zeta"]), ("tenants", ["acme"]),
    ]  # fmt: skip
    assert plan.id != plan_up([ACME, ZETA, TEMPLATE], FILES, NOTHING).id


def test_a_canary_that_is_no_tenant_is_refused() -> None:
    with pytest.raises(UsageError, match="no such tenant for a canary: nobody"):
        plan_up([ACME], FILES, NOTHING, canaries=["nobody"])


def test_up_may_stop_at_a_version_of_one_module() -> None:
    other = migration(1, module="billing")
    plan = plan_up([ACME], (*FILES, other), NOTHING, module="sales", to_version=2)
    assert [m.name for m in plan.migrations] == ["sales/00001_step", "sales/00002_step"]
    with pytest.raises(UsageError, match="there is no module 'nix' with migrations; there are billing, sales"):
        plan_up([ACME], (*FILES, other), NOTHING, module="nix")


def test_out_of_order_runs_the_older_ones_when_asked() -> None:
    plan = plan_up([ACME], FILES, applied(acme=(1, 3)), out_of_order=True)
    assert [m.version for m in plan.migrations] == [2]
    assert not plan.refused


def test_a_tenant_where_something_stopped_half_way_is_refused_until_asked_again() -> None:
    dirty = Applied(dirty={("tenant_acme", "goose_db_version_sales"): {2: "sales 2 (up): statement 1 of 2 failed"}})
    plan = plan_up([ACME, ZETA], FILES, dirty)
    assert plan.refused == {"acme": "dirty: sales 2 (up): statement 1 of 2 failed"}
    assert [p.tenant.slug for p in plan.tenants] == ["zeta"]
    assert not plan_up([ACME, ZETA], FILES, dirty, retry_dirty=True).refused


def test_redo_takes_the_last_applied_version_of_each_tenant_down_and_up() -> None:
    plan = plan_redo([ACME, ZETA], FILES, applied(acme=(1, 2)), "sales")
    assert [(m.version, direction) for m, direction in plan.tenants[0].steps] == [(2, "down"), (2, "up")]
    assert plan.refused == {"zeta": "sales: no version is applied"}


def test_an_estimate_shares_each_waves_work_among_the_workers() -> None:
    plan = plan_up([ACME, ZETA, TEMPLATE], FILES, NOTHING)
    known: dict[tuple[str, int, Direction], float] = {("sales", version, "up"): 1000.0 for version in (1, 2, 3)}
    assert estimate_plan(plan, known, workers=2).seconds == 6  # the template alone, then two side by side
    assert estimate_plan(plan, known, workers=1).seconds == 9
    assert str(estimate_plan(plan, {})) == (
        "no estimate: sales/00001_step, sales/00002_step, sales/00003_step never ran before"
    )
    assert str(estimate_plan(plan, {("sales", 1, "up"): 60_000.0}, workers=1)) == (
        "about 3 min for the rest; sales/00002_step, sales/00003_step never ran before"
    )


def test_statements_with_values_of_the_environment_are_not_shown() -> None:
    text = "-- +goose ENVSUB ON\n-- +goose Up\nSELECT '$PASSWORD';"
    secret = Migration("sales", 1, Path("00001_step.sql"), parse_migration(text, {"PASSWORD": "hunter2"}))
    plan = plan_up([ACME], [secret], NOTHING)
    assert "hunter2" not in str(next(iter(plan.sql()))[2])
    assert (
        plan.id
        != plan_up([ACME], [Migration("sales", 1, Path("00001_step.sql"), parse_migration(text, {}))], NOTHING).id
    )
