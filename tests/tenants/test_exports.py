"""Exporting a tenant to one file and importing it again; files that are damaged, edited or too new."""

import fcntl
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
import warnings
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
from erpkit.tenants.exports import find_program, without_password
from erpkit.tenants.health import count_rows
from erpkit.tenants.imports import rename_in_script
from erpkit.tenants.manifest import DUMP, MANIFEST
from tests.conftest import _new_database, plant_copy

TRICKY = [
    "tenant_acme.", "COPY tenant_acme.x FROM stdin;", "\\.", "a\tb\nc", "'tenant_acme.x'::regclass", "$$", "--", "\\restrict x",
]  # fmt: skip


@pytest.fixture(scope="module")
def original(shared_database: Database, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the data of acme, in which many things look like its schema's name."""
    plant_copy(shared_database, registry)
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
    assert [line for line in done.stderr.splitlines() if line.startswith("!")] == [
        "! default value for column word of table tenant_apex.notes: 'tenant_acme.notes'::text",
        "! function tenant_apex.body(): -- COPY tenant_acme.x FROM stdin;",
        """! view tenant_apex."odd'view": SELECT (word ~ '\\d+''tenant_acme.'::text) AS tenant_acme""",
    ]
    done = erpkit("tenants", "rename", "acme", "ajax", **environ)
    rename_tenant(database, "ajax", "acme")
    assert (done.returncode, done.stderr.count("! function tenant_ajax.body()")) == (3, 1)
    assert "still name the old schema in the text" in done.stderr


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
            with pytest.raises(UsageError, match="already exists: choose another name"):
                import_tenant(database, exported, slug)
        assert count_rows(connection, "tenant_acme") == before
    with pytest.raises(UsageError, match="not a valid tenant name"):
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
        (_truncate, "truncated, damaged or not an export file"),
        (_flip, "truncated, damaged or not an export file"),
        (lambda path: path.write_bytes(b""), "truncated, damaged or not an export file"),
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


def _write(path: Path, **members: bytes) -> None:
    """Make an archive as an export is, with other contents."""
    with zipfile.ZipFile(path, "w") as new:
        for name, content in (
            {MANIFEST: b"{}", DUMP: b"PGDMP"} | {n.replace("_json", ".json"): c for n, c in members.items()}
        ).items():
            new.writestr(name, content)


def _compress(path: Path) -> None:
    """A bomb: a thousandfold of what the file takes."""
    with zipfile.ZipFile(path) as old:
        content = old.read(MANIFEST)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        new.writestr(MANIFEST, content, zipfile.ZIP_STORED)
        new.writestr(DUMP, b"0" * 2**26)


def _add(path: Path, name: str) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as file:
        warnings.simplefilter("ignore")  # zipfile's, of a name that is there twice
        file.writestr(name, b"{}")


def _fill_contents(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as file:
        for number in range(20_000):
            file.writestr(f"{number:048}", b"")


def _lie_about_size(path: Path) -> None:
    """The table of contents says that the manifest is four gigabytes long."""
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\1\2", 0, content.rindex(MANIFEST.encode()))
    content[entry + 20 : entry + 28] = struct.pack("<LL", 2**32 - 2, 2**32 - 2)
    path.write_bytes(content)


def _make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_compress, "not an export file: its dump is compressed"),
        (
            lambda path: _write(path, manifest_json=b" " * (2**24 + 1)),
            "not an export file: its manifest.json is longer than 16 MiB",
        ),
        (_lie_about_size, "not an export file: its manifest.json is longer than 16 MiB"),
        (lambda path: _write(path, manifest_json=b"[" * 2**20), "its manifest cannot be read"),
        (lambda path: _write(path, manifest_json=b'{"format": 1, "format": 1}'), "its manifest cannot be read"),
        (lambda path: _write(path, manifest_json=b'{"format": %s}' % (b"9" * 10_000)), "its manifest cannot be read"),
        (lambda path: _write(path, manifest_json=b"\xff\xfe"), "its manifest cannot be read"),
        (lambda path: _write(path, manifest_json=b"null"), "its manifest cannot be read"),
        (
            lambda path: _add(path, MANIFEST),
            "not an export file: it does not hold manifest.json and dump, once each and nothing",
        ),
        (
            lambda path: _add(path, DUMP),
            "not an export file: it does not hold manifest.json and dump, once each and nothing",
        ),
        (
            lambda path: _add(path, "../../etc/passwd"),
            "not an export file: it does not hold manifest.json and dump, once each",
        ),
        (_fill_contents, "not an export file: its table of contents is longer than 1 MiB"),
        (lambda path: _reseal(path, schema="((a+)+)+$"), "the schema in its manifest is not a valid name"),
        (_make_pipe, "cannot be read: it is not a regular file"),
        (_link_device, "cannot be read: it is not a regular file"),
        (lambda path: (path.unlink(), path.mkdir()), "cannot be read: (it is not a regular file|Is a directory)"),
    ],
)
def test_a_hostile_file_is_refused_within_bounds(
    damage: Callable[[Path], object], message: str, exported: Path
) -> None:
    """Neither memory nor disk is used for more than the file itself may be."""
    damage(exported)
    for read in (read_manifest, verify_export):
        tracemalloc.start()
        with pytest.raises(UsageError, match=f"acme.erpkit.*{message}") as caught:
            read(exported)
        assert tracemalloc.get_traced_memory()[1] < 2**26
        tracemalloc.stop()
        assert len(str(caught.value).splitlines()) == 1


def _reseal(path: Path, **changes: Any) -> None:
    with zipfile.ZipFile(path) as old:
        values, content = json.loads(old.read(MANIFEST)), old.read(DUMP)
    del values["checksum"]
    with zipfile.ZipFile(path, "w") as new:
        new.writestr(MANIFEST, Manifest(**(values | changes)).to_json())
        new.writestr(DUMP, content)


def test_counts_that_do_not_agree_leave_nothing(exported: Path, database: Database) -> None:
    _reseal(exported, rows=read_manifest(exported).rows | {"notes": 1})
    with pytest.raises(DatabaseError, match="tenant apex: the numbers of rows of notes differ from the export"):
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


_EXPORT = """
import sys; from pathlib import Path; from erpkit.database import Database, Tenant; from erpkit.tenants import export_tenant
export_tenant(Database(sys.argv[1], "x"), Tenant("acme", "tenant_acme"), Path(sys.argv[2]))
"""


_DUMPING = "pg_stat_activity WHERE application_name = 'pg_dump' AND datname = current_database()"


def _any(database: Database, rows: str) -> bool:
    with database.connection() as connection:
        return connection.execute(f"SELECT FROM {rows} LIMIT 1".encode()).fetchone() is not None


def _left(folder: Path) -> list[Path]:
    return sorted(folder.glob(".erpkit-*"))


def _wait(until: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("moment", ["it counts", "it dumps", "it is late"])
def test_nothing_of_an_export_that_was_killed_is_left_after_the_next_command(
    moment: str, database: Database, tmp_path: Path
) -> None:
    with psycopg.connect(database.conninfo) as other:
        if moment == "it counts":
            other.execute("LOCK TABLE tenant_acme.notes IN ACCESS EXCLUSIVE MODE")
        process = subprocess.Popen([sys.executable, "-c", _EXPORT, database.conninfo, str(tmp_path / "acme.erpkit")])
        _wait(lambda: _left(tmp_path))
        if moment == "it counts":
            _wait(lambda: _any(database, "pg_locks WHERE NOT granted AND relation = 'tenant_acme.notes'::regclass"))
        if moment == "it dumps":
            _wait(lambda: process.poll() is not None or _any(database, _DUMPING))
        if moment == "it is late":
            _wait(lambda: process.poll() is not None or any(path.stat().st_size > 1000 for path in _left(tmp_path)))
        process.send_signal(signal.SIGKILL)
        process.wait()
    _wait(lambda: not _any(database, _DUMPING))
    left = _left(tmp_path)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in left)
    with pytest.raises(UsageError, match="No such file"):
        import_tenant(database, tmp_path / "another.erpkit")
    assert _left(tmp_path) == []


def test_exports_killed_at_any_moment_leave_a_whole_file_or_none(database: Database, tmp_path: Path) -> None:
    for delay in range(0, 1000, 125):
        process = subprocess.Popen(
            [sys.executable, "-c", _EXPORT, database.conninfo, str(tmp_path / f"{delay}.erpkit")]
        )
        time.sleep(delay / 1000)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with database.connection() as connection:
        tenant = get_tenant(connection, "acme")
    export_tenant(database, tenant, tmp_path / "last.erpkit")
    assert _left(tmp_path) == []
    for file in tmp_path.iterdir():
        assert verify_export(file).slug == "acme"


def test_an_export_that_still_runs_is_left_alone_by_others(database: Database, tmp_path: Path) -> None:
    theirs, another = tmp_path / ".erpkit-x.partial", tmp_path / ".erpkit-notes.txt"
    another.touch()
    with theirs.open("w") as running, database.connection() as connection:
        fcntl.flock(running, fcntl.LOCK_EX)
        export_tenant(database, get_tenant(connection, "acme"), tmp_path / "acme.erpkit")
    assert sorted(tmp_path.iterdir()) == sorted([theirs, another, tmp_path / "acme.erpkit"])


def test_an_import_that_is_killed_leaves_no_copy_of_the_dump(
    exported: Path, database: Database, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    code = (
        "import sys; from pathlib import Path; from erpkit.database import Database; from erpkit.tenants import import_tenant\n"
        "import_tenant(Database(sys.argv[1], 'x'), Path(sys.argv[2]), 'apex')"
    )
    with psycopg.connect(database.conninfo) as other:
        other.execute("LOCK TABLE public.tenants IN EXCLUSIVE MODE")
        process = subprocess.Popen(
            [sys.executable, "-c", code, database.conninfo, str(exported)], env=os.environ | {"TMPDIR": str(scratch)}
        )
        _wait(lambda: _any(database, "pg_locks WHERE NOT granted AND relation = 'public.tenants'::regclass"))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert list(scratch.iterdir()) == []
    _wait(lambda: _traces(database, "apex") == [])


def test_a_file_that_is_there_is_not_overwritten(exported: Path, database: Database) -> None:
    before = exported.read_bytes()
    with database.connection() as connection:
        tenant = get_tenant(connection, "acme")
    with pytest.raises(UsageError, match=r"acme.erpkit already exists"):
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


def test_an_export_does_not_wait_for_a_locked_table_for_ever(
    database: Database, migrations: tuple[Migration, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("erpkit.tenants.exports.WAIT", "1s")
    tenant = create_tenant(database, migrations, "busy")
    with psycopg.connect(database.conninfo) as other:
        other.execute("LOCK TABLE tenant_busy.sales_orders")
        with pytest.raises(DatabaseError, match=f"held by process {other.info.backend_pid} .*; nothing was exported"):
            export_tenant(database, tenant, tmp_path / "busy.erpkit")
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
