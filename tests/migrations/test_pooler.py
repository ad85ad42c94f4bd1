"""NO TRANSACTION files through a pooler: only where the settings say that a session is kept."""

import pytest

from erpkit.config import Settings
from erpkit.database import Database
from erpkit.embedded import EmbeddedServer
from erpkit.errors import UsageError
from erpkit.tenants import create_tenant
from tests.bouncer import pgbouncer
from tests.migrations.fleet import CONCURRENTLY, make_fleet, migrate, migration, step, versions

INDEX = migration(2, "CREATE INDEX CONCURRENTLY by_id ON a1 (id);", head=CONCURRENTLY)


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_behind_a_pooler_a_file_that_needs_a_session_is_refused_before_anything_is_run(
    server: EmbeddedServer, database: Database, mode: str
) -> None:
    with database.connection() as connection:
        fleet = make_fleet(connection, 3)
    with pgbouncer(server, database, mode) as behind:  # type: ignore[arg-type]
        with pytest.raises(
            UsageError, match=r"stock/00002_step.sql, a NO TRANSACTION file, needs a session.*ERPKIT_POOLER=session"
        ):
            migrate(behind, fleet, [step(1), INDEX])
        assert set(versions(database, fleet).values()) == {()}
        with pytest.raises(UsageError, match="ERPKIT_POOLER=session"):
            create_tenant(behind, [step(1), INDEX], "acme")
        assert migrate(behind, fleet, [step(1)]).is_complete
    with database.connection() as connection:
        assert connection.execute("SELECT to_regnamespace('tenant_acme')").fetchone() == (None,)


def test_behind_a_pooler_that_is_declared_to_be_in_session_mode_it_is_run(
    server: EmbeddedServer, database: Database
) -> None:
    with database.connection() as connection:
        fleet = make_fleet(connection, 3)
    with pgbouncer(server, database, "session") as behind:
        behind.pooler = "session"
        assert migrate(behind, fleet, [step(1), INDEX, step(3)]).is_complete
    assert set(versions(database, fleet).values()) == {(1, 2, 3)}
    with database.connection() as connection:
        rows = connection.execute("SELECT schemaname FROM pg_indexes WHERE indexname = 'by_id' ORDER BY 1").fetchall()
    assert [name for (name,) in rows] == [tenant.schema for tenant in fleet]


def test_a_mode_that_there_is_not_is_refused_and_one_may_stand_in_modules_toml(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match="ERPKIT_POOLER is 'statement': use session or transaction"):
        Settings.from_env({"ERPKIT_POOLER": "statement"})
    manifest = tmp_path / "modules.toml"
    manifest.write_text('pooler = "session"\n[[module]]\nname = "sales"\n')
    assert Settings.from_env({"ERPKIT_MODULES": str(manifest)}).pooler == "session"
    assert Settings.from_env({"ERPKIT_MODULES": str(manifest), "ERPKIT_POOLER": "transaction"}).pooler == "transaction"
