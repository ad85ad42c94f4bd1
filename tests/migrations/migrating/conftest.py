"""The fleet that is migrated, and the database it is in."""

from __future__ import annotations

import pytest

from erpkit.database import Database, Tenant
from tests.migrations.fleet import make_fleet


@pytest.fixture(scope="module")
def database(shared_database: Database) -> Database:
    """One database for all of a file's tests: to make one takes longer than most of them."""
    return shared_database


@pytest.fixture
def fleet(database: Database) -> list[Tenant]:
    """Fourteen tenants without any migration."""
    with database.connection() as connection:
        return make_fleet(connection, 14)
