"""golang-migrate's files and table: read, planned and run as that tool does, and each goes on where the other stopped."""

import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from erpkit.database import Connection, Database, Tenant
from erpkit.errors import MigrationError, PlanChangedError, UsageError
from erpkit.migrations import (
    Limits,
    Migration,
    MigrationRun,
    collect_migrations,
    describe_status,
    golang,
    lint_migrations,
    plan_down,
    plan_force,
    plan_redo,
    read_applied,
    read_history,
    read_migrations,
    run_force,
    run_plan,
    version_table,
)  # fmt: skip
from erpkit.migrations.files import new_migration
from erpkit.migrations.golang import Mark
from erpkit.migrations.script import check_statements, is_atomic
from erpkit.modules import Module
from tests.migrations.fleet import (
    SLEEPS,
    activity,
    in_background,
    make_fleet,
    plan_for,
    receive,
    session,
    start_runner,
    wait_until,
)  # fmt: skip

Files = dict[str, str]
BINS: Files = {
    "000001_bins.up.sql": "CREATE TABLE bins (id int);\nINSERT INTO bins VALUES (1);\n",
    "000001_bins.down.sql": "DROP TABLE bins;\n",
    "000002_index.up.sql": "CREATE INDEX CONCURRENTLY bins_id ON bins (id);\n",
    "000002_index.down.sql": "DROP INDEX bins_id;\n",
    "000003_labels.up.sql": "CREATE TABLE labels (id int);\n",
    "000003_labels.down.sql": "DROP TABLE labels;\n",
}


def stock(folder: Path, files: Files = BINS, **declared: Any) -> Module:
    """Write a module; files that are there already stay."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return Module("stock", migrations=folder, **declared)


def read(folder: Path, files: Files = BINS, **declared: Any) -> tuple[Migration, ...]:
    return read_migrations([stock(folder, files, **declared)], event_log=False)


@pytest.fixture
def fleet(database: Database) -> list[Tenant]:
    with database.connection() as connection:
        return make_fleet(connection, 3)


def up(database: Database, fleet: Sequence[Tenant], migrations: Sequence[Migration], **choice: Any) -> MigrationRun:
    plan = plan_for(database, fleet, migrations, **choice)
    return run_plan(database, plan, plan.id)


def down(database: Database, fleet: Sequence[Tenant], migrations: Sequence[Migration], to: int) -> MigrationRun:
    with database.connection() as connection:
        plan = plan_down(fleet, migrations, read_applied(connection, fleet, migrations), "stock", to)
    return run_plan(database, plan, plan.id)


def table(database: Database, tenant: Tenant, name: str = "schema_migrations") -> list[Any]:
    with database.connection() as connection:
        return connection.execute(f"SELECT version, dirty FROM {tenant.schema}.{name}".encode()).fetchall()


def texts(database: Database, fleet: Sequence[Tenant], migrations: Sequence[Migration]) -> list[str]:
    with database.connection() as connection:
        applied = read_applied(connection, fleet, migrations)
    return [status.text for status in describe_status(fleet, migrations, applied)]


def relations(database: Database, tenant: Tenant) -> set[str]:
    with database.connection() as connection:
        rows = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = %s::regnamespace AND relkind IN ('r', 'i')",
            [tenant.schema],
        )
        return {name for (name,) in rows} - {"schema_migrations", "schema_migrations_pkey"}


def leave(database: Database, tenant: Tenant, *statements: str) -> None:
    """Leave a schema as golang-migrate leaves it: its table, and what its files made."""
    text = "version bigint not null primary key, dirty boolean not null"
    with database.connection() as connection:
        connection.execute(f"SET search_path TO {tenant.schema}; CREATE TABLE schema_migrations ({text})".encode())
        for statement in statements:
            connection.execute(statement.encode())
        connection.execute("RESET search_path")


class TestFiles:
    def test_its_files_are_known_by_their_names_and_read_by_version(self, tmp_path: Path) -> None:
        found = collect_migrations(
            stock(tmp_path, {"10_b.up.sql": "SELECT 10;", "9_a.up.sql": "SELECT 9;", "README.md": ""})
        )
        assert [(m.name, m.version, m.version_table) for m in found] == [
            ("stock/9_a", 9, "schema_migrations"), ("stock/10_b", 10, "schema_migrations"),
        ]  # fmt: skip
        assert [m.golang and m.golang.before for m in found] == [golang.NIL, 9]

    def test_a_file_is_sent_whole_and_its_down_file_is_the_way_back(self, tmp_path: Path) -> None:
        found = read(tmp_path)[0]
        assert found.content.up == (BINS["000001_bins.up.sql"],)
        assert found.content.down == ("DROP TABLE bins;\n",)
        assert found.file("down").name == "000001_bins.down.sql"

    def test_a_version_may_be_0_and_may_lack_one_of_its_files(self, tmp_path: Path) -> None:
        found = read(tmp_path, {"000000_init.up.sql": "SELECT 1;", "2_gone.down.sql": "SELECT 2;"})
        assert [(m.name, m.version, m.content.up, m.content.down) for m in found] == [
            ("stock/000000_init", 0, ("SELECT 1;",), ()), ("stock/2_gone", 2, (), ("SELECT 2;",)),
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("files", "said"),
        [
            ({"1_a.up.sql": "", "01_b.up.sql": ""}, "version 1 up is taken by 01_b.up.sql"),
            ({"1_a.up.sql": "", "1_a.up.sql~": ""}, "version 1 up is taken by"),
            ({"1_a.up.sql": "", "2_b.sql": ""}, "passes over a file with this name"),
            ({"9223372036854775808_a.up.sql": ""}, "version 9223372036854775808 is not between"),
            ({"1_a.up.sql": "\ufeffSELECT 1;"}, "byte order mark"),
        ],
    )
    def test_what_it_would_not_take_or_not_see_is_refused_by_name(
        self, tmp_path: Path, files: Files, said: str
    ) -> None:
        with pytest.raises(MigrationError, match=rf"{tmp_path}.*{said}"):
            read(tmp_path, files)

    def test_a_goose_file_that_is_named_so_stays_gooses(self, tmp_path: Path) -> None:
        found = read(
            tmp_path, {"00001_sign.up.sql": "-- +goose Up\nSELECT 1;", "00002_b.sql": "-- +goose Up\nSELECT 2;"}
        )
        assert {(m.version_table, m.golang) for m in found} == {("goose_db_version_stock", None)}

    def test_the_table_has_the_tools_own_name_or_a_declared_one(self, tmp_path: Path) -> None:
        assert version_table(stock(tmp_path)) == "schema_migrations"
        assert version_table(stock(tmp_path, version_table="Stock_versions")) == "Stock_versions"
        for name in ("goose_db_version_stock", "a-b", "erpkit_x", '"a"', "a" * 64):
            with pytest.raises(MigrationError, match="is not a valid name for golang-migrate's version table"):
                version_table(stock(tmp_path, version_table=name))

    def test_only_one_module_may_have_the_default_name(self, tmp_path: Path) -> None:
        one, two = stock(tmp_path / "a"), stock(tmp_path / "b")
        shop = Module("shop", migrations=two.migrations)
        with pytest.raises(
            MigrationError, match="stock and shop share the version table schema_migrations: .*version_table"
        ):
            read_migrations([one, shop])
        named = Module("shop", migrations=two.migrations, version_table="shop_migrations")
        assert {m.version_table for m in read_migrations([one, named], event_log=False)} == {
            "schema_migrations",
            "shop_migrations",
        }

    def test_multi_statement_cuts_at_every_semicolon_and_is_refused_for_goose(self, tmp_path: Path) -> None:
        text = "\nSELECT 1;\n\n  SELECT\n 2; -- last\n"
        found = read(tmp_path, {"1_a.up.sql": text}, multi_statement=True)[0]
        assert (found.content.up, found.content.up_lines) == (("SELECT 1;", "SELECT\n 2;", "-- last"), (2, 4, 5))
        quoted = read(tmp_path, {"1_a.up.sql": "SELECT ';';"}, multi_statement=True)[0]
        with pytest.raises(MigrationError, match="cut at every ';'"):
            check_statements(quoted)
        goose = stock(tmp_path / "goose", {"1_a.sql": "-- +goose Up\n"}, multi_statement=True)
        with pytest.raises(MigrationError, match="multi_statement is for golang-migrate's files"):
            collect_migrations(goose)

    @pytest.mark.parametrize(
        ("text", "whole"),
        [
            ("CREATE TABLE a (); CREATE TABLE b ();", True),
            ("CREATE TABLE a ();", True),
            ("-- CONCURRENTLY\nCREATE TABLE a ();", True),
            ("CREATE INDEX CONCURRENTLY i ON a (b);", False),
            ("BEGIN; CREATE TABLE a (); COMMIT;", False),
            ("DO $$ BEGIN COMMIT; END $$;", False),
            ("VACUUM;", False),
        ],
    )
    def test_what_postgresql_rolls_back_as_a_whole_is_known(self, tmp_path: Path, text: str, *, whole: bool) -> None:
        assert is_atomic(read(tmp_path, {"1_a.up.sql": text})[0]) == whole

    def test_a_new_one_is_a_pair_in_the_style_of_the_others(self, tmp_path: Path) -> None:
        module = stock(tmp_path)
        path = new_migration(module, "add due dates")
        assert path == tmp_path / "000004_add_due_dates.up.sql"
        assert (tmp_path / "000004_add_due_dates.down.sql").exists()
        assert [m.version for m in collect_migrations(module)] == [1, 2, 3, 4]
        first = new_migration(stock(tmp_path / "new", {}, version_table="schema_migrations"), "bins")
        assert first.name == "000001_bins.up.sql"

    def test_squawk_names_the_statement_and_its_line(self, tmp_path: Path) -> None:
        text = "CREATE TABLE a (id int);\n\n-- a note;\nALTER TABLE b\n  DROP COLUMN c;\nCREATE INDEX CONCURRENTLY i ON b (d);\n"
        found = lint_migrations(
            read(tmp_path, {"1_a.up.sql": text, "2_b.up.sql": "CREATE INDEX CONCURRENTLY i ON b (d);"})
        )
        assert [(f.migration, f.line, f.statement, f.rule) for f in found] == [
            ("stock/1_a", 5, "ALTER TABLE b", "ban-drop-column"),
            ("stock/1_a", 6, "CREATE INDEX CONCURRENTLY i ON b (d);", "ban-concurrent-index-creation-in-transaction"),
        ]  # fmt: skip


class TestRuns:
    def test_up_and_down_leave_its_table_as_it_does(
        self, database: Database, fleet: list[Tenant], tmp_path: Path
    ) -> None:
        migrations = read(tmp_path)
        run = up(database, fleet, migrations)
        assert (run.is_complete, run.done_count) == (True, 9)
        assert [table(database, tenant) for tenant in fleet] == [[(3, False)]] * 3
        assert relations(database, fleet[0]) == {"bins", "bins_id", "labels"}
        assert plan_for(database, fleet, migrations).is_empty

        assert down(database, fleet[:1], migrations, 1).is_complete
        assert table(database, fleet[0]) == [(1, False)]
        assert texts(database, fleet, migrations) == ["1 (+2)", "3", "3"]
        assert down(database, fleet, migrations, 0).is_complete
        assert [table(database, tenant) for tenant in fleet] == [[]] * 3  # no row after the last Down
        assert texts(database, fleet, migrations) == ["0 (+3)"] * 3
        assert relations(database, fleet[0]) == set()

        assert up(database, fleet, migrations, module="stock", to_version=2).is_complete
        with database.connection() as connection:
            plan = plan_redo(fleet, migrations, read_applied(connection, fleet, migrations), "stock")
        assert run_plan(database, plan, plan.id).is_complete
        assert [table(database, tenant) for tenant in fleet] == [[(2, False)]] * 3
        with database.connection() as connection:
            done = [(e.version, e.direction) for e in read_history(connection, fleet[:1]) if e.state == "done"]
        steps = ", ".join(f"{version} {way}" for version, way in reversed(done))
        assert steps == "1 up, 2 up, 3 up, 3 down, 2 down, 1 down, 1 up, 2 up, 2 down, 2 up"

    def test_its_table_is_made_as_it_makes_it(self, database: Database, fleet: list[Tenant], tmp_path: Path) -> None:
        up(database, fleet[:1], read(tmp_path))
        leave(database, fleet[1])
        query = (
            "SELECT attname, format_type(atttypid, atttypmod), attnotnull, "
            "(SELECT string_agg(pg_get_constraintdef(oid), ';' ORDER BY conname) FROM pg_constraint WHERE conrelid = attrelid) "
            "FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum"
        )
        with database.connection() as connection:
            made = [connection.execute(query, [f"{t.schema}.schema_migrations"]).fetchall() for t in fleet[:2]]
        assert made[0] == made[1]

    def test_a_tenant_that_it_migrated_is_taken_as_it_is_and_goes_on(
        self, database: Database, fleet: list[Tenant], tmp_path: Path
    ) -> None:
        migrations = read(tmp_path)
        leave(database, fleet[0], BINS["000001_bins.up.sql"], "INSERT INTO schema_migrations VALUES (1, false)")
        leave(database, fleet[1])  # its `version` command makes the table
        assert texts(database, fleet, migrations) == ["1 (+2)", "0 (+3)", "0 (+3)"]
        run = up(database, fleet, migrations)
        assert (run.is_complete, run.done_count) == (True, 8)
        assert [table(database, tenant) for tenant in fleet] == [[(3, False)]] * 3

    def test_files_below_the_version_are_never_pending(
        self, database: Database, fleet: list[Tenant], tmp_path: Path
    ) -> None:
        leave(database, fleet[0], "INSERT INTO schema_migrations VALUES (3, false)")
        migrations = read(tmp_path)
        assert texts(database, fleet[:1], migrations) == ["3"]
        assert plan_for(database, fleet[:1], migrations, out_of_order=True).is_empty

    def test_a_version_without_a_file_is_said_and_nothing_is_run_from_it(
        self, database: Database, fleet: list[Tenant], tmp_path: Path
    ) -> None:
        leave(database, fleet[0], "INSERT INTO schema_migrations VALUES (4, false)")
        migrations = read(tmp_path)
        assert texts(database, fleet[:1], migrations) == ["4 (unknown)"]
        later = read(tmp_path, {"000005_later.up.sql": "SELECT 5;"})
        plan = plan_for(database, fleet[:1], later)
        assert plan.refused == {
            "t01": "stock: schema_migrations says version 4, and there is no file for it: install the release that has it"
        }

    def test_a_table_of_another_tool_with_that_name_is_not_touched(
        self, database: Database, fleet: list[Tenant], tmp_path: Path
    ) -> None:
        with database.connection() as connection:
            connection.execute(f"CREATE TABLE {fleet[0].schema}.schema_migrations (version varchar)".encode())
        leave(database, fleet[1], "INSERT INTO schema_migrations VALUES (1, false), (2, false)")
        plan = plan_for(database, fleet, read(tmp_path))
        assert plan.refused["t01"].startswith("its table schema_migrations is not golang-migrate's")
        assert "holds several rows" in plan.refused["t02"]
        assert [p.tenant.slug for p in plan.tenants] == ["t03"]

    def test_the_statement_that_fails_in_a_file_of_many_is_named_with_its_line(
        self, database: Database, fleet: list[Tenant], tmp_path: Path
    ) -> None:
        rows = "".join(f"INSERT INTO many VALUES ({number});\n" for number in range(2, 900))
        bad = f"CREATE TABLE many (id int PRIMARY KEY);\n{rows}INSERT INTO many VALUES (700);\n"
        run = up(database, fleet[:1], read(tmp_path, {"000001_many.up.sql": bad}))
        assert "line 900: INSERT INTO many VALUES (700);" in (run.results[0].error or "")

    def test_a_file_that_leaves_the_schema_leaves_nothing_elsewhere(
        self, database: Database, fleet: list[Tenant], tmp_path: Path
    ) -> None:
        stray = "SET search_path TO public;\nCREATE TABLE stray (id int);\n"
        run = up(database, fleet[:1], read(tmp_path, {"000001_stray.up.sql": stray}))
        assert "it leaves the tenant's schema" in (run.results[0].error or "")
        assert "nothing of it is left" in (run.results[0].error or "")
        with database.connection() as connection:
            assert connection.execute("SELECT to_regclass('public.stray')").fetchone() == (None,)

    def test_a_file_that_fails_leaves_its_version_dirty_until_it_is_forced(
        self, database: Database, fleet: list[Tenant], tmp_path: Path
    ) -> None:
        bad = "CREATE TABLE half (id int);\nSELECT no_such;\n"
        migrations = read(tmp_path, {**BINS, "000004_bad.up.sql": bad})
        run = up(database, fleet[:1], migrations)
        assert run.results[0].done == ("stock/000001_bins", "stock/000002_index", "stock/000003_labels")
        error = run.results[0].error or ""
        assert error.startswith("tenant t01: stock/000004_bad.up.sql stopped half way: ")
        assert 'column "no_such" does not exist' in error
        assert "nothing of it is left" in error
        assert error.endswith("then erpkit migrate force VERSION --module stock")
        assert table(database, fleet[0]) == [(4, True)]
        assert "half" not in relations(database, fleet[0])
        assert texts(database, fleet[:1], migrations) == ["4 (dirty)"]

        for choice in ({}, {"retry_dirty": True}):
            plan = plan_for(database, fleet[:1], migrations, **choice)
            assert plan.refused["t01"].startswith("dirty: stock is at version 4 (dirty) in schema_migrations until")
            assert 'column "no_such" does not exist' in plan.refused["t01"]
            assert plan.refusals[0].remedy.startswith("erpkit migrate force VERSION --module stock --tenant t01")
        assert "dirty" in down_plan(database, fleet[:1], migrations, 1)["t01"]

        force(database, fleet[:1], migrations, 3)
        (tmp_path / "000004_bad.up.sql").write_text("CREATE TABLE whole (id int);")
        assert up(database, fleet[:1], read(tmp_path, {})).is_complete
        assert table(database, fleet[0]) == [(4, False)]

    def test_what_stays_of_a_file_with_a_transaction_of_its_own_is_said(
        self, database: Database, fleet: list[Tenant], tmp_path: Path
    ) -> None:
        text = "BEGIN; CREATE TABLE kept (id int); COMMIT; SELECT no_such;"
        run = up(database, fleet[:1], read(tmp_path, {"1_a.up.sql": text}))
        assert "what came before may be there" in (run.results[0].error or "")
        assert relations(database, fleet[0]) == {"kept"}
        assert table(database, fleet[0]) == [(1, True)]

    def test_a_down_that_fails_is_dirty_at_the_version_that_it_leads_to(
        self, database: Database, fleet: list[Tenant], tmp_path: Path
    ) -> None:
        migrations = read(tmp_path, {"1_a.up.sql": "SELECT 1;", "1_a.down.sql": "DROP TABLE no_such;"})
        up(database, fleet[:1], migrations)
        run = down(database, fleet[:1], migrations, 0)
        assert "stock/1_a.down.sql stopped half way" in (run.results[0].error or "")
        assert table(database, fleet[0]) == [(-1, True)]  # as golang-migrate writes it
        assert texts(database, fleet[:1], migrations) == ["0 (+1, dirty)"]
        force(database, fleet[:1], migrations, 1)
        assert texts(database, fleet[:1], migrations) == ["1"]

    def test_multi_statement_sends_one_after_the_other(
        self, database: Database, fleet: list[Tenant], tmp_path: Path
    ) -> None:
        text = "CREATE TABLE a (id int);\nCREATE INDEX CONCURRENTLY a_id ON a (id);\nSELECT no_such;"
        run = up(database, fleet[:1], read(tmp_path, {"1_a.up.sql": text}, multi_statement=True))
        assert "statement 3 of 3 failed" in (run.results[0].error or "")
        assert relations(database, fleet[0]) == {"a", "a_id"}
        assert table(database, fleet[0]) == [(1, True)]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (
                "CREATE SCHEMA other; SET search_path TO other; CREATE TABLE lost (id int);",
                "it leaves the tenant's schema",
            ),
            ("BEGIN; CREATE TABLE a (id int);", "its COMMIT is missing"),
        ],
    )
    def test_a_file_that_leaves_the_session_otherwise_is_not_recorded_as_done(
        self, database: Database, fleet: list[Tenant], tmp_path: Path, text: str, said: str
    ) -> None:
        run = up(database, fleet[:1], read(tmp_path, {"1_a.up.sql": text}))
        assert said in (run.results[0].error or "")
        assert table(database, fleet[0]) == [(1, True)]

    def test_a_lock_that_was_not_got_leaves_nothing_dirty(
        self, database: Database, fleet: list[Tenant], tmp_path: Path
    ) -> None:
        migrations = read(tmp_path, {**BINS, "000004_more.up.sql": "ALTER TABLE bins ADD COLUMN more int;"})
        up(database, fleet[:1], migrations, module="stock", to_version=3)
        plan = plan_for(database, fleet[:1], migrations)
        with session(database) as other, other.transaction():
            other.execute(f"LOCK TABLE {fleet[0].schema}.bins".encode())
            run = run_plan(database, plan, plan.id, limits=Limits(lock_timeout=0.2, attempts=2))
        assert "could not get a lock within 0.2 s, tried 2 times; held by process" in (run.results[0].error or "")
        assert table(database, fleet[0]) == [(3, False)]
        assert up(database, fleet[:1], migrations).is_complete

    def test_modules_of_goose_and_of_golang_migrate_go_in_one_plan(
        self, database: Database, fleet: list[Tenant], tmp_path: Path
    ) -> None:
        (tmp_path / "goose").mkdir()
        (tmp_path / "goose" / "00001_orders.sql").write_text("-- +goose Up\nCREATE TABLE orders (id int);\n")
        orders = Module("orders", migrations=tmp_path / "goose")
        shop = Module("shop", migrations=stock(tmp_path / "shop", {"7_shop.up.sql": "CREATE TABLE shop (id int);"}).migrations,
                      version_table="shop_migrations")  # fmt: skip
        migrations = read_migrations([stock(tmp_path / "stock"), orders, shop], event_log=False)
        plan = plan_for(database, fleet, migrations, canaries=["t02"])
        assert [(wave.name, [p.tenant.slug for p in wave.tenants]) for wave in plan.waves] == [
            ("canaries", ["t02"]), ("tenants", ["t01", "t03"]),
        ]  # fmt: skip
        run = run_plan(database, plan, plan.id)
        assert (run.is_complete, run.done_count) == (True, 15)
        assert texts(database, fleet[:1], migrations) == ["3", "1", "7"]
        assert table(database, fleet[0], "shop_migrations") == [(7, False)]
        (tmp_path / "goose" / "00001_orders.sql").write_text("-- +goose Up\nCREATE TABLE orders (id bigint);\n")
        (tmp_path / "shop" / "7_shop.up.sql").write_text("CREATE TABLE shop (id bigint);")
        edited = read_migrations([stock(tmp_path / "stock"), orders, shop], event_log=False)
        assert texts(database, fleet[:1], edited) == ["3", "1 (edited)", "7 (edited)"]


def down_plan(database: Database, fleet: Sequence[Tenant], migrations: Sequence[Migration], to: int) -> dict[str, str]:
    with database.connection() as connection:
        applied = read_applied(connection, fleet, migrations)
    return dict(plan_down(fleet, migrations, applied, "stock", to).refused)


def force(database: Database, fleet: Sequence[Tenant], migrations: Sequence[Migration], version: int) -> None:
    with database.connection() as connection:
        plan = plan_force(fleet, migrations, read_applied(connection, fleet, migrations), "stock", version)
    assert not run_force(database, plan, plan.id, Limits(), lambda _: None).failed


class TestForce:
    def test_it_sets_the_version_runs_nothing_and_is_in_the_history(
        self, database: Database, fleet: list[Tenant], tmp_path: Path
    ) -> None:
        migrations = read(tmp_path)
        leave(database, fleet[0], "INSERT INTO schema_migrations VALUES (2, true)")
        leave(database, fleet[1], "INSERT INTO schema_migrations VALUES (2, false)")
        with database.connection() as connection:
            applied = read_applied(connection, fleet, migrations)
        plan = plan_force(fleet, migrations, applied, "stock", 2)
        assert [(one.tenant.slug, str(one.present)) for one in plan.tenants] == [
            ("t01", "version 2 (dirty)"), ("t03", "no version"),
        ]  # fmt: skip
        with pytest.raises(PlanChangedError):
            run_force(database, plan, "force-0123456789", Limits(), lambda _: None)
        run = run_force(database, plan, plan.id, Limits(), lambda _: None)
        assert (len(run.done), run.failed) == (2, ())
        assert [table(database, tenant) for tenant in fleet] == [[(2, False)]] * 3
        assert relations(database, fleet[0]) == set()
        with database.connection() as connection:
            entry = read_history(connection, fleet[:1])[0]
        assert (entry.version, entry.state, entry.error) == (
            2,
            "done",
            "forced from version 2 (dirty): nothing was run",
        )
        force(database, fleet[:1], migrations, golang.NIL)
        assert table(database, fleet[0]) == []

    def test_a_tenant_that_has_moved_since_stays_as_it_is(
        self, database: Database, fleet: list[Tenant], tmp_path: Path
    ) -> None:
        migrations = read(tmp_path)
        leave(database, fleet[0], "INSERT INTO schema_migrations VALUES (2, true)")
        with database.connection() as connection:
            plan = plan_force(fleet[:1], migrations, read_applied(connection, fleet, migrations), "stock", 1)
            connection.execute(f"UPDATE {fleet[0].schema}.schema_migrations SET version = 3".encode())
        run = run_force(database, plan, plan.id, Limits(), lambda _: None)
        assert [one.error for one in run.failed] == [
            "it is at version 3 (dirty) by now, and was at version 2 (dirty): plan again"
        ]
        assert table(database, fleet[0]) == [(3, True)]

    def test_only_a_version_that_has_a_file_and_only_this_tools_table(
        self, database: Database, fleet: list[Tenant], tmp_path: Path
    ) -> None:
        with pytest.raises(UsageError, match="no file of version 9: use -1 for none, or 1, 2, 3"):
            force(database, fleet, read(tmp_path), 9)
        goose = read(tmp_path / "goose", {"1_a.sql": "-- +goose Up\n"})
        with pytest.raises(UsageError, match="has no files of golang-migrate's"):
            force(database, fleet, goose, 1)


class TestLocks:
    def test_the_keys_are_those_of_the_tool(self) -> None:
        # Seen with golang-migrate 4.16's command line, which blocks on the first: it takes the URL's path for the database's name.
        assert golang.lock_keys("postgres", "tenant_a", "schema_migrations") == (3906293461, 1358198382)

    @pytest.mark.parametrize("number", [0, 1])
    def test_a_tenant_that_the_tool_is_at_is_waited_for_and_not_touched(
        self, database: Database, fleet: list[Tenant], tmp_path: Path, number: int
    ) -> None:
        migrations = read(tmp_path)
        plan = plan_for(database, fleet[:1], migrations)
        with session(database) as tool:
            key = golang.lock_keys(tool.info.dbname, fleet[0].schema, "schema_migrations")[number]
            tool.execute("SELECT pg_advisory_lock(%s)", [key])
            run = run_plan(database, plan, plan.id, limits=Limits(lock_timeout=0.2, attempts=2))
            assert "could not get golang-migrate's lock within 0.2 s, tried 2 times" in (run.results[0].error or "")
            assert relations(database, fleet[0]) == set()
            with in_background(run_plan, database, plan, plan.id) as runs:
                time.sleep(0.2)
                tool.execute("SELECT pg_advisory_unlock(%s)", [key])
        assert runs[0].is_complete

    def test_it_holds_the_tools_locks_while_a_file_runs_and_none_afterwards(
        self, database: Database, fleet: list[Tenant], tmp_path: Path
    ) -> None:
        waits = "DO $$ BEGIN WHILE NOT pg_try_advisory_lock(7) LOOP PERFORM pg_sleep(0.01); END LOOP; END $$;"
        migrations = read(tmp_path, {"1_a.up.sql": waits})
        plan = plan_for(database, fleet[:1], migrations)
        with session(database) as tool:
            wanted = golang.lock_keys(tool.info.dbname, fleet[0].schema, "schema_migrations")
            tool.execute("SELECT pg_advisory_lock(7)")
            with in_background(run_plan, database, plan, plan.id) as runs:
                try:
                    wait_until(lambda: activity(tool, SLEEPS))
                    assert table(database, fleet[0]) == [(1, True)]  # dirty while it runs
                    assert [_try(tool, key) for key in wanted] == [False, False]
                    assert "is still running" in plan_for(database, fleet[:1], migrations).refused["t01"]
                finally:
                    tool.execute("SELECT pg_advisory_unlock(7)")
            assert runs[0].is_complete
            # The server gives a closed session's locks back a moment later.
            wait_until(lambda: all(_try(tool, key) for key in wanted))

    def test_two_runners_build_indexes_concurrently_without_a_deadlock(
        self, database: Database, fleet: list[Tenant], tmp_path: Path
    ) -> None:
        migrations = read(tmp_path)
        up(database, fleet, migrations, module="stock", to_version=1)
        for _ in range(5):
            plan = plan_for(database, fleet, migrations)
            other = threading.Barrier(2)

            def run(other: threading.Barrier = other, plan: Any = plan) -> MigrationRun:
                other.wait()
                return run_plan(database, plan, plan.id, workers=2)

            with in_background(run) as runs:
                mine = run()
            assert (mine.failed, runs[0].failed) == ((), ())
            assert mine.done_count + runs[0].done_count == 6
            assert [table(database, tenant) for tenant in fleet] == [[(3, False)]] * 3
            down(database, fleet, migrations, 1)

    def test_what_somebody_else_made_dirty_since_the_plan_is_not_run_again(
        self, database: Database, fleet: list[Tenant], tmp_path: Path
    ) -> None:
        migrations = read(tmp_path)
        plan = plan_for(database, fleet[:1], migrations)
        leave(database, fleet[0], "INSERT INTO schema_migrations VALUES (1, true)")
        run = run_plan(database, plan, plan.id)
        assert "schema_migrations is at version 1 (dirty) now" in (run.results[0].error or "")
        assert relations(database, fleet[0]) == set()

    def test_a_tenant_that_was_moved_since_the_plan_is_planned_again(
        self, database: Database, fleet: list[Tenant], tmp_path: Path
    ) -> None:
        migrations = read(tmp_path)
        up(database, fleet[:1], migrations, module="stock", to_version=2)
        plan = plan_for(database, fleet[:1], migrations)
        down(database, fleet[:1], migrations, 1)
        run = run_plan(database, plan, plan.id)
        assert "is at version 1 by now, and this migration starts from version 2: plan again" in (
            run.results[0].error or ""
        )
        assert table(database, fleet[0]) == [(1, False)]


def _try(connection: Connection, key: int) -> bool:
    """Tell whether a lock can be had, and give it back."""
    if connection.execute("SELECT pg_try_advisory_lock(%s)", [key]).fetchone() != (True,):
        return False
    connection.execute("SELECT pg_advisory_unlock(%s)", [key])
    return True


@pytest.mark.parametrize("when", ["in a file", "anywhere"])
def test_a_runner_that_is_killed_leaves_what_it_was_at_dirty_and_the_rest_whole(
    database: Database, tmp_path: Path, when: str
) -> None:
    sql = "CREATE TABLE a{0} (id int);\nSELECT pg_sleep(0.02);\nCREATE TABLE b{0} (id int);"
    migrations = read(tmp_path, {f"{n}_step.up.sql": sql.format(n) for n in (1, 2, 3)})
    chance = random.Random(when)
    for _ in range(8):
        with database.connection() as connection:
            fleet = make_fleet(connection, 10)
        _kill(database, fleet, migrations, chance.randrange(1, 25), in_a_file=when == "in a file")
        dirty = _check_whole(database, fleet, migrations)
        assert len(dirty) <= 3  # as many as there are workers
        assert dirty or when != "in a file"
        assert set(plan_for(database, fleet, migrations, retry_dirty=True).refused) == {t.slug for t in dirty}
        for tenant in dirty:  # PostgreSQL has rolled the file back, or ended it by itself
            version = table(database, tenant)[0][0]
            is_whole = f"b{version}" in relations(database, tenant)
            force(database, [tenant], migrations, version if is_whole else version - 1 or golang.NIL)
        assert up(database, fleet, migrations).is_complete
        assert _check_whole(database, fleet, migrations) == []
        assert [table(database, tenant) for tenant in fleet] == [[(3, False)]] * 10


def _kill(
    database: Database, fleet: Sequence[Tenant], migrations: Sequence[Migration], done: int, *, in_a_file: bool
) -> None:
    """Kill a runner after so many files; wait until PostgreSQL has noticed."""
    process, pipe = start_runner(database.conninfo, fleet, migrations)
    with pipe, database.connection() as connection:
        assert receive(pipe) == "planned"
        wait_until(lambda: not process.is_alive() or _done(connection) >= done)
        if in_a_file:
            wait_until(lambda: not process.is_alive() or activity(connection, SLEEPS))
        process.kill()
        process.join()
        wait_until(lambda: activity(connection, "state <> 'idle'") == 0 and not _is_locked(connection))


def _is_locked(connection: Connection) -> bool:
    return connection.execute("SELECT FROM pg_locks WHERE locktype = 'advisory'").fetchone() is not None


def _done(connection: Connection) -> int:
    row = connection.execute("SELECT count(*) FROM pg_tables WHERE tablename ~ '^b[0-9]$'").fetchone()
    return row[0] if row else 0


def _check_whole(database: Database, fleet: Sequence[Tenant], migrations: Sequence[Migration]) -> list[Tenant]:
    """Check that tables are as the versions say, but for the last one of those that are dirty, which are returned."""
    with database.connection() as connection:
        applied = read_applied(connection, fleet, migrations)
    dirty = []
    for tenant in fleet:
        mark = applied.marks.get((tenant.schema, "schema_migrations"), Mark())
        whole = {f"{letter}{version}" for version in range(1, mark.version + 1) for letter in "ab"}
        last = {f"a{mark.version}", f"b{mark.version}"} if mark.dirty else set()
        assert relations(database, tenant) in (whole, whole - last)
        dirty += [tenant] if mark.dirty else []
    return dirty
