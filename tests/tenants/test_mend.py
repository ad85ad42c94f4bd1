"""A statement of one's own, once for each tenant, is planned and applied like everything that writes."""

import pytest

from erpkit import open as open_erp
from erpkit.database import Database
from erpkit.errors import PlanChangedError
from erpkit.sample.demo import Planted


def test_a_mend_is_applied_by_its_id_alone_and_a_tenant_that_it_fails_in_does_not_stop_the_others(
    erp: Planted, database: Database
) -> None:
    rate = "INSERT INTO {schema}.billing_exchange_rates (currency, euros) VALUES ('SEK', 1)"
    with open_erp(database.conninfo, modules="erpkit.sample") as opened:
        plan = opened.migrations.mend(["acme", "bluebird"], rate)
        with pytest.raises(PlanChangedError):
            plan.apply("mend-0123456789")
        with database.connection() as connection:
            connection.execute(plan.statements["acme"].encode())
        done = plan.apply(plan.id)
        assert (str(done), list(done.failed), done.facts) == ("mended 1 of 2 tenants", ["acme"], {"mended": 1})
        (finding,) = done.findings
        assert "not mended: duplicate key value" in finding.problem
        with database.connection() as connection:
            query = "SELECT count(*) FROM tenant_bluebird.billing_exchange_rates WHERE currency = 'SEK'"
            assert connection.execute(query.encode()).fetchone() == (1,)
        bare = opened.migrations.mend(["acme"], "DELETE FROM billing_exchange_rates")
        (finding,) = bare.apply(bare.id).findings
        assert "does not exist; write {schema} before the names of the tenant's tables" in finding.problem
        nothing = opened.migrations.mend(["acme"], "")
        assert (nothing.size, str(nothing.record)) == (0, "there is nothing to mend")
