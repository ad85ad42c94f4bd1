"""What people are shown of migrations: the matrix, findings by cause, plans and what became of them."""

from dataclasses import replace
from pathlib import Path

from erpkit.database import TEMPLATE, Tenant
from erpkit.finding import exit_code, group_findings
from erpkit.migrations import (
    Applied,
    FleetStatus,
    Migration,
    MigrationPlan,
    MigrationRun,
    TenantResult,
    parse_migration,
    plan_down,
    plan_up,
)

TABLE = "goose_db_version_shop"
MIGRATIONS = tuple(
    Migration("shop", n, Path(f"shop/{n:05}_step.sql"), parse_migration(f"-- +goose Up\nSELECT {n};\n-- +goose Down\nSELECT 0;\n"))
    for n in (1, 2)
)  # fmt: skip


def fleet(count: int) -> list[Tenant]:
    return [Tenant(f"t{n:02}", f"tenant_t{n:02}") for n in range(count)]


def found(tenants: list[Tenant], behind: tuple[str, ...] = (), **more: object) -> FleetStatus:
    versions = {(t.schema, TABLE): (1,) if t.slug in behind else (1, 2) for t in tenants}
    applied = replace(Applied(versions), **more)  # type: ignore[arg-type]
    return FleetStatus("here", tuple(tenants), MIGRATIONS, applied)


def tones(status: FleetStatus) -> set[str]:
    return {column.tone(row) for column in status.table.columns[1:] for row in status.table.rows}


def planned(status: FleetStatus) -> MigrationPlan:
    return replace(plan_up(status.tenants, MIGRATIONS, status.applied), before=status)


def test_of_many_tenants_those_that_are_current_are_one_line_and_the_worst_come_first() -> None:
    assert len(found(fleet(40)).table) == 40
    status = found(fleet(60), ("t07", "t09"), dirty={("tenant_t09", TABLE): {2: "shop 2 (up) by me: broke"}})
    assert list(status.table.texts()) == [["t09", "1 (+1, dirty)"], ["t07", "1 (+1)"], ["58 others", "2"]]
    assert tones(status) == {"error", "warning", "good"}


def test_tenants_with_the_same_trouble_are_one_cause_with_a_command_to_paste() -> None:
    (cause,) = group_findings(found(fleet(9), ("t01", "t02", "t03", "t04")).findings)
    assert str(cause) == "4 tenants: shop is at 1 and lacks 2 (t01, t02 and 2 more)"
    assert (cause.severity, cause.remedy) == ("warning", "erpkit migrate up")


def test_nothing_is_green_without_the_history_and_what_was_not_read_is_a_finding() -> None:
    status = found(fleet(2), no_history="permission denied", unread={"t01": "it is locked"})
    assert tones(status) == {"", "warning"}
    assert {str(finding) for finding in status.findings} == {
        "t01: it is locked",
        "public.erpkit_migrations: permission denied",
    }
    assert {finding.kind for finding in status.findings} == {"not read"}


def test_for_what_stopped_half_way_no_command_is_named_that_would_refuse_it_or_that_runs_already() -> None:
    status = found(fleet(2), ("t01",), dirty={("tenant_t01", TABLE): {2: "shop 2 (up) by me: broke"}})
    (finding,) = status.findings
    assert (finding.kind, finding.remedy) == (
        "dirty", "erpkit migrate up --retry-dirty --tenant t01  # once it is fixed by hand",
    )  # fmt: skip
    plan = replace(plan_up(status.tenants, MIGRATIONS, status.applied, retry_dirty=True), before=status)
    assert [one.remedy for one in plan.findings if one.kind == "dirty"] == [""]


def test_what_stopped_half_way_in_a_module_that_is_not_loaded_is_found_and_its_table_is_named() -> None:
    gone = ("tenant_t00", "goose_db_version_gone")
    status = found(fleet(1), dirty={gone: {3: "gone 3 (up) by me: broke"}})
    assert [(f.severity, str(f)) for f in status.findings] == [("error", "t00: gone 3 stopped half way")]
    status = found(fleet(1), versions={("tenant_t00", TABLE): (1, 2), gone: (1,)})
    (stranger,) = status.findings
    assert (exit_code([stranger]), "goose_db_version_gone belongs to no module" in str(stranger)) == (0, True)


def test_no_tenants_and_no_migrations_are_findings() -> None:
    status = FleetStatus("here", (TEMPLATE,), (), Applied())
    assert [finding.kind for finding in status.findings] == ["no tenants", "no migrations"]
    assert status.summary.exit_code == 3


def test_a_plan_tells_who_is_refused_and_who_gets_what_in_one_line_for_all_that_get_the_same() -> None:
    slugs = tuple(tenant.slug for tenant in fleet(50))
    plan = planned(found(fleet(50), slugs, unread={"t49": "it is locked"}))
    assert (plan.size, plan.facts["found behind"], plan.facts["planned"]) == (49, 49, 49)
    assert list(plan.table.texts()) == [["tenants", "49: t00, t01, t02 … t48", "shop/00002_step", "1", "1"]]
    assert [str(finding) for finding in plan.refusals] == ["t49: it is locked"]
    assert list(plan.scripts.texts()) == [["shop/00002_step", "up", "49", "yes", "SELECT 2;"]]
    assert str(plan) == "49 migrations on 49 schemas, no estimate: shop/00002_step never ran before"


def test_those_that_wait_for_a_canary_are_gone_on_with_behind_the_same_canary() -> None:
    status = found(fleet(3), ("t00", "t01", "t02"))
    plan = plan_up(status.tenants, MIGRATIONS, status.applied, canaries=["t01"])
    run = MigrationRun(plan.id, (TenantResult("t01", (), 0.1, "it broke"),), {"t00": "1 of 1 failed"}, 0.1, plan=plan)
    (waits,) = [finding for finding in run.findings if finding.kind == "not started"]
    assert waits.remedy == "erpkit migrate up --canary t01"


def test_a_run_tells_who_failed_who_was_not_started_and_who_is_still_behind() -> None:
    before = found(fleet(4), ("t00", "t01", "t02", "t03"))
    plan = planned(before)
    results = (
        TenantResult("t00", ("shop/00002_step",), 0.1),
        TenantResult("t01", (), 0.1, "tenant t01: shop/00002_step.sql failed: it broke"),
        TenantResult("t02", ("shop/00002_step",), 0.1),
    )
    left = planned(found(fleet(4), ("t01", "t02", "t03")))
    run = MigrationRun(plan.id, results, {"t03": "interrupted"}, 0.4, plan=plan, left=left)
    told = [str(finding) for finding in run.findings if finding.kind not in ("lint", "not linted")]
    assert told == [
        "t01: shop/00002_step.sql failed: it broke",
        "t03: not started: interrupted",
        "t02: shop is at 1 and lacks 2",
    ]
    assert run.behind == ("t02",)
    (waits,) = [finding for finding in run.findings if finding.kind == "not started"]
    assert waits.remedy == "erpkit migrate up"
    assert str(run) == (
        "2 migrations applied in 0.4 s, 1 tenant failed, 1 tenant not started: interrupted; run it again to go on"
    )
    assert run.facts == {"applied": 2, "failed": 1, "not started": 1}


def test_a_module_that_was_taken_down_is_not_reported_as_behind() -> None:
    status = found(fleet(2))
    plan = replace(plan_down(status.tenants, MIGRATIONS, status.applied, "shop", 1), before=status)
    after = found(fleet(2), ("t00", "t01"))
    left = replace(plan_down(after.tenants, MIGRATIONS, after.applied, "shop", 1), before=after)
    results = tuple(TenantResult(tenant.slug, ("shop/00002_step",), 0.1) for tenant in fleet(2))
    assert MigrationRun(plan.id, results, plan=plan, left=left).findings == []
    assert MigrationRun(plan.id, results, plan=plan, left=plan).behind == ("t00", "t01")
