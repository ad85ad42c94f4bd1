"""Planning is pure: tenants, files and versions in, steps out."""

from pathlib import Path

import pytest

from erpkit.database import TEMPLATE, Tenant
from erpkit.errors import MigrationError, PlanChangedError
from erpkit.migrations import (
    Applied,
    Migration,
    collect_migrations,
    describe_status,
    parse_migration,
    plan_down,
    plan_up,
)
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
