"""An ERP whose with block has ended stays closed, until it is opened again."""

import pytest

import erpkit
from erpkit.database import Database
from erpkit.errors import UsageError
from erpkit.sample.demo import Planted


def test_a_plan_cannot_be_applied_and_nothing_read_after_the_with_block(
    database: Database, erp: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERPKIT_DATABASE", database.conninfo)
    monkeypatch.setenv("ERPKIT_MODULES", "erpkit.sample")
    with erpkit.open() as door:
        plan, tenant = door.tenants.create("newcomer"), door.tenants["acme"]
    for use in (
        lambda: plan.apply(plan.id),
        lambda: len(door.tenants),
        lambda: tenant.transaction(write=True).__enter__(),
    ):
        with pytest.raises(UsageError, match="open it again with"):
            use()
    with door:
        assert "newcomer" not in door.tenants
