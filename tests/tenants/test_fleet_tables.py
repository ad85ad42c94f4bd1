"""The tables of many inspections: what is alike and well takes one line, and what was not read is none of it."""

from __future__ import annotations

from erpkit.migrations import MigrationStatus
from erpkit.tenants.fleet import _shorten


def test_tenants_that_are_current_and_alike_take_one_line_where_there_are_many() -> None:
    names = [f"tenant_{n}" for n in range(9)]
    lines = [(name, {"sales": MigrationStatus(name, "sales", 3, (1, 2, 3), (), (), ())}) for name in names]
    lines[4] = ("tenant_4", {"sales": MigrationStatus("tenant_4", "sales", 2, (1, 2), (3,), (), ())})
    lines[7] = ("tenant_7", {"sales": MigrationStatus("tenant_7", "sales", 0, (), (), (), (), error="locked")})
    assert [name for name, _ in _shorten(lines)] == ["tenant_4", "tenant_7", "7 tenants, all alike"]
    assert _shorten(lines[:4]) == lines[:4]
