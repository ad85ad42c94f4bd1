"""Growth is a comparison of two inspections, and a file that is none is refused in one clear line."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from erpkit.database import Tenant
from erpkit.errors import UsageError
from erpkit.tenants import Snapshot, TenantInspection, compare_snapshots, read_snapshot, take_snapshot, write_snapshot
from erpkit.tenants.health import TableFacts
from erpkit.tenants.locks import TableLock


def _inspection(slug: str, *tables: TableFacts, exact: bool = True, locked: str = "") -> TenantInspection:
    return TenantInspection(
        tenant=Tenant(slug, f"tenant_{slug}"),
        exists=True,
        size=sum(table.size for table in tables),
        rows={table.name: table.rows for table in tables},
        migrations=[],
        event_count=0,
        last_event=datetime.now(UTC),
        dead_letters=[],
        is_exact=exact,
        tables=tables,
        locked=[TableLock(1, locked, 7, "ops", True)] if locked else (),
    )


def _snapshot(*inspections: TenantInspection, target: str = "db/erp/me") -> Snapshot:
    return take_snapshot(inspections, target)


def _table(name: str, rows: int, size: int) -> TableFacts:
    return TableFacts(name, rows, size, 0)


def test_growth_is_told_for_each_tenant_and_each_of_its_tables() -> None:
    before = _snapshot(_inspection("acme", _table("orders", 10, 8192), _table("old", 3, 100)))
    now = _snapshot(_inspection("acme", _table("orders", 25, 16384), _table("new", 2, 50)), _inspection("late"))
    growth = compare_snapshots(before, now)
    acme, late = growth["acme"], growth["late"]
    assert (acme.size, acme.rows, acme.is_exact) == (8142, 14, True)
    assert {t.name: (t.size, t.rows) for t in acme.tables} == {
        "orders": (8192, 15),
        "new": (50, 2),
        "old": (None, None),
    }
    assert (late.size, late.rows, late.before, late.tables) == (None, None, None, ())


def test_growth_says_where_a_figure_was_estimated() -> None:
    before = _snapshot(_inspection("acme", _table("a", 1, 1), _table("b", 1, 1)))
    estimated = _snapshot(_inspection("acme", _table("a", 1, 1), exact=False))
    now = _snapshot(_inspection("acme", _table("a", 2, 2), _table("b", 2, 2), locked="a"))
    (growth,) = compare_snapshots(before, now).values()
    assert ({t.name: t.is_exact for t in growth.tables}, growth.is_exact) == ({"a": False, "b": True}, False)
    assert not compare_snapshots(estimated, now)["acme"].is_exact


def test_a_snapshot_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "monday.json"
    written = write_snapshot(path, [_inspection("acme", _table("orders", 10, 8192), locked="orders")], "embedded")
    read = read_snapshot(path)
    assert (read.target, read.tenants) == (written.target, written.tenants)
    assert abs(read.taken_at - written.taken_at) < timedelta(seconds=1)
    assert [one.name for one in tmp_path.iterdir()] == ["monday.json"]


def test_another_users_inspection_of_the_database_is_compared_but_not_that_of_another_database() -> None:
    by_another_user = _snapshot(target="db/erp/cron")
    now = _snapshot(target="db/erp/me")
    assert compare_snapshots(by_another_user, now) == {}
    for other in ("db/other/me", "db2/erp/me", "embedded"):
        earlier = Snapshot(now.taken_at, other, {})
        with pytest.raises(UsageError, match=f"the earlier inspection is of {other}, and this one of db/erp/me"):
            compare_snapshots(earlier, now)
    with pytest.raises(UsageError, match="which is in the future"):
        compare_snapshots(Snapshot(now.taken_at + timedelta(days=1), now.target, {}), now)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hello", "is not JSON"),
        ("[]", "is not an inspection"),
        ('{"tenants": []}', "is not an inspection"),
        ('{"erpkit_inspection": 2}', "was written by a later erpkit, in form 2"),
        ('{"erpkit_inspection": 1, "taken_at": "2026-01-01"}', "is a damaged inspection"),
        ('{"erpkit_inspection": 1, "taken_at": "soon", "target": "x", "tenants": []}', "is a damaged inspection"),
    ],
)
def test_a_file_that_is_no_inspection_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(UsageError, match=rf"file\.json.*{words}"):
        read_snapshot(tmp_path / "file.json")


def test_files_that_cannot_be_read_or_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is not an inspection"):
        read_snapshot(tmp_path / "bytes.json")
    for path in (tmp_path, tmp_path / "nothere.json"):
        with pytest.raises(UsageError, match="cannot be read"):
            read_snapshot(path)
    with pytest.raises(UsageError, match="cannot be written: No such file"):
        write_snapshot(tmp_path / "no" / "file.json", [], "embedded")


def test_the_file_holds_when_and_of_what_it_was_taken(tmp_path: Path) -> None:
    write_snapshot(tmp_path / "file.json", [], "db/erp/me")
    value = json.loads((tmp_path / "file.json").read_text())
    assert (value["target"], value["tenants"]) == ("db/erp/me", [])
    assert datetime.fromisoformat(value["taken_at"]).tzinfo is not None
