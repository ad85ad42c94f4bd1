"""Exporting a tenant to one file and importing it again; files that are damaged, edited or too new."""

import json
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from erpkit.database import Database
from erpkit.embedded import EmbeddedServer
from erpkit.errors import DatabaseError, UsageError
from erpkit.migrations import Migration
from erpkit.modules import Registry
from erpkit.sample.demo import plant
from erpkit.tenants import (
    Manifest,
    create_tenant,
    drop_tenant,
    export_tenant,
    find_drift,
    get_tenant,
    import_tenant,
    inspect_tenants,
    list_tenants,
    plan_drop,
    read_manifest,
    rename_tenant,
    set_status,
    verify_export,
)
from erpkit.tenants.imports import rename_in_script
from erpkit.tenants.manifest import DUMP, MANIFEST
from erpkit.tenants.programs import find_program, without_password
from erpkit.tenants.rows import count_rows
from tests.conftest import SMALL, _new_database

TRICKY = [
    "tenant_acme.", "COPY tenant_acme.x FROM stdin;", "\\.", "a\tb\nc", "'tenant_acme.x'::regclass", "$$", "--", "\\restrict x",
]  # fmt: skip


@pytest.fixture(scope="module")
def original(shared_database: Database, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the data of acme, in which many things look like its schema's name."""
    plant(shared_database, registry, tenants=4, size=SMALL)
    with shared_database.connection() as connection:
        tenant = get_tenant(connection, "acme")
        connection.execute(
            "CREATE TABLE tenant_acme.notes (id serial PRIMARY KEY, word text DEFAULT 'tenant_acme.notes'); "
            "COMMENT ON TABLE tenant_acme.notes IS 'it''s tenant_acme.notes; SCHEMA tenant_acme'; "
            "COMMENT ON SCHEMA tenant_acme IS 'SCHEMA tenant_acme'; "
            "CREATE VIEW tenant_acme.\"odd'view\" AS SELECT n.word ~ '\\d+''tenant_acme.' AS tenant_acme FROM tenant_acme.notes n; "
            "CREATE FUNCTION tenant_acme.body() RETURNS text LANGUAGE plpgsql AS $f$ BEGIN\n"
            "-- COPY tenant_acme.x FROM stdin;\nRETURN 'tenant_acme.'; END $f$"
        )
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO tenant_acme.notes (word) VALUES (%s)", [(word,) for word in TRICKY])
    file = tmp_path_factory.mktemp("original") / "acme.erpkit"
    export_tenant(shared_database, tenant, file)
    return file


@pytest.fixture
def exported(original: Path, tmp_path: Path) -> Path:
    """The file, as a copy that a test may damage."""
    return Path(shutil.copy2(original, tmp_path / "acme.erpkit"))


@pytest.fixture
def database(shared_database: Database, original: Path) -> Iterator[Database]:
    """The database from which the file was exported; a copy of the tenant that a test imports is dropped again."""
    yield shared_database
    with shared_database.connection() as connection:
        if "apex" in [tenant.slug for tenant in list_tenants(connection)]:
            plan = plan_drop(connection, set_status(connection, "apex", "suspended"))
            drop_tenant(shared_database, "apex", plan.id)


def _traces(database: Database, slug: str) -> list[Any]:
    with database.connection() as connection:
        return connection.execute(
            "SELECT nspname FROM pg_namespace WHERE nspname = %(schema)s "
            "UNION ALL SELECT rolname FROM pg_roles WHERE starts_with(rolname, current_database() || '.' || %(schema)s)",
            {"schema": f"tenant_{slug}"},
        ).fetchall()


def test_a_manifest_tells_whose_data_a_file_holds(exported: Path, database: Database) -> None:
    manifest = read_manifest(exported)
    assert (manifest.slug, manifest.schema, manifest.rows["notes"]) == ("acme", "tenant_acme", len(TRICKY))
    assert manifest.versions["billing"] == [1, 2, 3, 4]
    assert (manifest.left_out, manifest.needs) == ((), ())
    with database.connection() as connection:
        assert manifest.rows == count_rows(connection, "tenant_acme")
    assert verify_export(exported) == manifest
    assert exported.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in exported.parent.iterdir()] == ["acme.erpkit"]


def test_it_is_imported_beside_the_original_under_another_name(
    exported: Path, database: Database, migrations: tuple[Migration, ...]
) -> None:
    copy = import_tenant(database, exported, "apex").tenant
    with database.connection() as connection:
        original = get_tenant(connection, "acme")
        assert count_rows(connection, copy.schema) == count_rows(connection, original.schema)
        mine, theirs = inspect_tenants(connection, [original, copy], migrations)
        assert [str(line).replace("apex", "acme") for line in theirs.drift] == [str(line) for line in mine.drift]
        assert (theirs.versions, theirs.rows, theirs.last_event) == (mine.versions, mine.rows, mine.last_event)
        stray = connection.execute(
            "SELECT pg_describe_object(d.classid, d.objid, 0) FROM pg_depend d JOIN pg_class r ON r.oid = d.refobjid "
            "AND d.refclassid = 'pg_class'::regclass AND r.relnamespace = 'tenant_acme'::regnamespace "
            "LEFT JOIN pg_attrdef a ON d.classid = 'pg_attrdef'::regclass AND a.oid = d.objid "
            "LEFT JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid "
            "JOIN pg_class o ON o.oid = coalesce(a.adrelid, w.ev_class) WHERE o.relnamespace = 'tenant_apex'::regnamespace"
        ).fetchall()
        assert stray == []
        comments = connection.execute(
            "SELECT obj_description('tenant_apex.notes'::regclass), obj_description('tenant_apex'::regnamespace)"
        ).fetchone()
        assert comments == ("it's tenant_acme.notes; SCHEMA tenant_acme", "SCHEMA tenant_acme")
    with database.tenant_transaction(copy, write=True) as connection:
        words = connection.execute("SELECT word FROM notes ORDER BY id").fetchall()
        assert words == [(word,) for word in TRICKY]
        row = connection.execute("INSERT INTO notes DEFAULT VALUES RETURNING id, word, body()").fetchone()
        assert row == (len(TRICKY) + 1, "tenant_acme.notes", "tenant_acme.")
    with (
        pytest.raises(psycopg.errors.InsufficientPrivilege),
        database.tenant_transaction(copy) as connection,
    ):
        connection.execute("SELECT * FROM tenant_acme.notes")


def test_importing_under_another_name_says_what_still_names_the_old_schema(exported: Path, database: Database) -> None:
    from tests.command import erpkit

    file, environ = str(exported), {"ERPKIT_DATABASE": database.conninfo}
    done = erpkit("tenants", "import", file, "--as", "apex", **environ)
    assert done.returncode == 3
    assert [line for line in done.stdout.splitlines() if line.startswith("!")] == [
        "! default value for column word of table tenant_apex.notes: 'tenant_acme.notes'::text",
        "! function tenant_apex.body(): -- COPY tenant_acme.x FROM stdin;",
        """! view tenant_apex."odd'view": SELECT (word ~ '\\d+''tenant_acme.'::text) AS tenant_acme""",
    ]
    done = erpkit("tenants", "rename", "acme", "ajax", **environ)
    rename_tenant(database, "ajax", "acme")
    assert (done.returncode, done.stdout.count("! function tenant_ajax.body()")) == (3, 1)
    assert "still name the old schema in their text" in done.stdout


def test_it_is_imported_into_another_database_under_its_own_name(exported: Path, server: EmbeddedServer) -> None:
    for other in _new_database(server):
        moved = import_tenant(other, exported)
        tenant = moved.tenant
        assert moved.mentions == ()
        with other.connection() as connection:
            assert (list_tenants(connection), tenant.slug) == ([tenant], "acme")
            assert count_rows(connection, tenant.schema) == read_manifest(exported).rows
            assert connection.execute("SHOW search_path").fetchone() == ('"$user", public',)
        with other.tenant_transaction(tenant) as connection:
            assert connection.execute("SELECT count(*) FROM notes").fetchone() == (len(TRICKY),)


def test_an_existing_tenant_is_never_imported_over(exported: Path, database: Database) -> None:
    with database.connection() as connection:
        before = count_rows(connection, "tenant_acme")
        for slug in (None, "acme", "bluebird"):
            with pytest.raises(UsageError, match="there is a tenant .* already: choose another name"):
                import_tenant(database, exported, slug)
        assert count_rows(connection, "tenant_acme") == before
    with pytest.raises(UsageError, match="no tenant name"):
        import_tenant(database, exported, 'x"; drop schema tenant_acme; --')


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _repack(path: Path, change: Callable[[dict[str, Any]], object], dump: bytes = b"") -> None:
    with zipfile.ZipFile(path) as old:
        values, content = json.loads(old.read(MANIFEST)), old.read(DUMP)
    change(values)
    with zipfile.ZipFile(path, "w") as new:
        new.writestr(MANIFEST, json.dumps(values))
        new.writestr(DUMP, dump or content)


def _fewer_rows(values: dict[str, Any]) -> None:
    values["rows"]["notes"] = 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, "truncated, damaged or no export file"),
        (_flip, "truncated, damaged or no export file"),
        (lambda path: path.write_bytes(b""), "truncated, damaged or no export file"),
        (lambda path: path.unlink(), "cannot be read: No such file"),
        (lambda path: _repack(path, _fewer_rows), "its manifest was edited"),
        (lambda path: _repack(path, lambda values: values.update(slug="x; y")), "its manifest was edited"),
        (lambda path: _repack(path, lambda values: values.update(format=2)), "has format 2; .* up to 1: update erpkit"),
        (lambda path: _repack(path, lambda values: values.pop("rows")), "its manifest cannot be read"),
        (lambda path: _repack(path, dict, b"PGDMP"), "sha256 differs"),
    ],
)
def test_a_bad_file_is_refused_in_one_line_and_leaves_nothing(
    damage: Callable[[Path], object], message: str, exported: Path, database: Database
) -> None:
    damage(exported)
    with pytest.raises(UsageError, match=f"acme.erpkit.*{message}") as caught:
        import_tenant(database, exported, "apex")
    assert len(str(caught.value).splitlines()) == 1
    assert _traces(database, "apex") == []


def _reseal(path: Path, **changes: Any) -> None:
    with zipfile.ZipFile(path) as old:
        values, content = json.loads(old.read(MANIFEST)), old.read(DUMP)
    del values["checksum"]
    with zipfile.ZipFile(path, "w") as new:
        new.writestr(MANIFEST, Manifest(**(values | changes)).to_json())
        new.writestr(DUMP, content)


def test_counts_that_do_not_agree_leave_nothing(exported: Path, database: Database) -> None:
    _reseal(exported, rows=read_manifest(exported).rows | {"notes": 1})
    with pytest.raises(DatabaseError, match="tenant apex: the rows of notes are not as many as were exported"):
        import_tenant(database, exported, "apex")
    assert _traces(database, "apex") == []


def test_an_export_of_a_newer_server_is_refused(exported: Path, database: Database) -> None:
    _reseal(exported, server_version=990000)
    with pytest.raises(UsageError, match="comes from PostgreSQL 99"):
        import_tenant(database, exported, "apex")


def test_a_fault_of_the_schema_leaves_nothing(exported: Path, server: EmbeddedServer) -> None:
    for other in _new_database(server):
        with other.connection() as connection:
            connection.execute(f'CREATE ROLE "{connection.info.dbname}.tenant_acme.read"')
        with pytest.raises(UsageError, match="tenant acme cannot be imported: role .* already exists"):
            import_tenant(other, exported)
        assert len(_traces(other, "acme")) == 1


def test_an_import_that_is_killed_leaves_nothing(exported: Path, database: Database) -> None:
    code = (
        "import sys; from pathlib import Path; from erpkit.database import Database; from erpkit.tenants import import_tenant\n"
        "import_tenant(Database(sys.argv[1], 'x'), Path(sys.argv[2]), 'apex')"
    )
    with database.transaction() as connection:
        connection.execute("LOCK TABLE public.tenants IN EXCLUSIVE MODE")  # it waits there, with all its work done
        process = subprocess.Popen([sys.executable, "-c", code, database.conninfo, str(exported)])
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'public.tenants'::regclass"
        deadline = time.monotonic() + 30
        while connection.execute(waiting).fetchone() == (0,) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
        process.wait()
    deadline = time.monotonic() + 10
    while (traces := _traces(database, "apex")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert traces == []
    assert import_tenant(database, exported, "apex").tenant.slug == "apex"


def test_a_file_that_is_there_is_not_overwritten(exported: Path, database: Database) -> None:
    before = exported.read_bytes()
    with database.connection() as connection:
        tenant = get_tenant(connection, "acme")
    with pytest.raises(UsageError, match=r"acme.erpkit is there already"):
        export_tenant(database, tenant, exported)
    with pytest.raises(UsageError, match=r"cannot be written: No such file or directory"):
        export_tenant(database, tenant, exported.parent / "missing" / "acme.erpkit")
    assert exported.read_bytes() == before


def test_a_tenant_without_a_schema_is_not_exported(database: Database, tmp_path: Path) -> None:
    tenant = create_tenant(database, [], "hollow")
    with database.connection() as connection:
        connection.execute("DROP SCHEMA tenant_hollow")
    with pytest.raises(DatabaseError, match="tenant hollow: there is no schema tenant_hollow"):
        export_tenant(database, tenant, tmp_path / "hollow.erpkit")
    assert list(tmp_path.iterdir()) == []


def test_a_password_never_stands_on_a_command_line(database: Database, server: EmbeddedServer, tmp_path: Path) -> None:
    login = f"keeper_{database.conninfo.split('/')[3].split('?')[0]}"
    rules = server.data / "pg_hba.conf"
    original = rules.read_text()
    with database.connection() as connection:
        connection.execute(f"CREATE ROLE {login} LOGIN SUPERUSER PASSWORD 'very-secret'")
        tenant = get_tenant(connection, "acme")
        try:
            rules.write_text(f"local all {login} scram-sha-256\n{original}")
            connection.execute("SELECT pg_reload_conf()")
            given = psycopg.conninfo.make_conninfo(database.conninfo, user=login, password="very-secret")
            with Database(given, "with a password") as guarded:
                with guarded.connection() as own:
                    assert "very-secret" not in without_password(own)
                    assert f"user={login}" in without_password(own)
                export_tenant(guarded, tenant, tmp_path / "acme.erpkit")
                assert import_tenant(guarded, tmp_path / "acme.erpkit", "apex").tenant.slug == "apex"
        finally:
            rules.write_text(original)
            connection.execute("SELECT pg_reload_conf()")
            connection.execute(f"REASSIGN OWNED BY {login} TO postgres; DROP OWNED BY {login}; DROP ROLE {login}")


def test_a_program_older_than_the_server_is_refused(database: Database) -> None:
    with pytest.raises(
        DatabaseError, match=r"pg_dump must be at least as new as the server, 99; found .*pg_dump \(18\)"
    ):
        find_program("pg_dump", 990000)


def test_only_the_names_of_a_script_are_rewritten() -> None:
    script = (
        "\\restrict key\n-- Name: tenant_a; Schema: tenant_a.x\nCREATE SCHEMA tenant_a;\n"
        "ALTER TABLE ONLY tenant_a.t ALTER id SET DEFAULT nextval('tenant_a.s'::regclass);\n"
        "SELECT pg_catalog.setval('tenant_a.s', 5, true);\n"
        "COMMENT ON TABLE tenant_a.t IS 'tenant_a.t ''tenant_a.t''';\n"
        "CREATE TABLE tenant_a.\"tenant_a.t\" (tenant_a text DEFAULT E'\\\\tenant_a.');\n"
        "CREATE FUNCTION tenant_a.f() RETURNS tenant_a.t AS $_$\n\\restrict\ntenant_a.t $1 $_$;\nSELECT tenant_ab.x;\n"
    )
    assert rename_in_script(script, "tenant_a", "b") == (
        "\n-- Name: tenant_a; Schema: tenant_a.x\nCREATE SCHEMA b;\n"
        "ALTER TABLE ONLY b.t ALTER id SET DEFAULT nextval('b.s'::regclass);\n"
        "SELECT pg_catalog.setval('b.s', 5, true);\n"
        "COMMENT ON TABLE b.t IS 'tenant_a.t ''tenant_a.t''';\n"
        "CREATE TABLE b.\"tenant_a.t\" (tenant_a text DEFAULT E'\\\\tenant_a.');\n"
        "CREATE FUNCTION b.f() RETURNS b.t AS $_$\n\\restrict\ntenant_a.t $1 $_$;\nSELECT tenant_ab.x;\n"
    )


def test_the_copy_has_the_drift_of_its_original(exported: Path, database: Database) -> None:
    copy = import_tenant(database, exported, "apex").tenant
    with database.connection() as connection:
        drift = find_drift(connection, [get_tenant(connection, "acme"), copy])
    assert [str(one) for one in drift["apex"]] == [str(one) for one in drift["acme"]]
