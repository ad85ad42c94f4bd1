"""Which files are migrations, what table records them, and how a new one is named."""

import json
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from erpkit import Module
from erpkit.cli.migrate_files import new, show
from erpkit.errors import MigrationError, UsageError
from erpkit.migrations import Migration, collect_migrations, parse_migration, read_migrations, version_table
from erpkit.migrations.files import Style, new_migration, next_version, write_template

NOON = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)
UP = "-- +goose Up\nSELECT 1;\n"


def module(folder: Path, *files: str, name: str = "stock", table: str | None = None) -> Module:
    for file in files:
        (folder / file).write_text(UP)
    return Module(name, migrations=folder, version_table=table)


def test_files_are_sorted_by_version_and_those_without_one_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "4_below.sql").write_text("broken")
    stock = module(
        tmp_path, "10_c.sql", "2_.sql", "+3_b_b.sql", "readme.sql", "5.sql", "v6_x.sql", "7_x.SQL", "٣_x.sql"
    )
    (tmp_path / "helpers.go").touch()
    (tmp_path / "00008_x_test.go").touch()
    found = collect_migrations(stock)
    assert [(m.version, m.path.name) for m in found] == [(2, "2_.sql"), (3, "+3_b_b.sql"), (10, "10_c.sql")]


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        (["1_a.sql", "00001_b.sql"], "1_a.sql: version 1 is taken by 00001_b.sql"),
        (["0_a.sql"], "version 0 is not between 1 and"),
        (["9223372036854775808_a.sql"], "version 9223372036854775808 is not"),
        (["1_a.sql", "00002_backfill.go"], "00002_backfill.go: a migration in Go"),
        (["1_a.sql", "1_b.go"], "version 1 is taken by"),
    ],
)
def test_a_folder_that_cannot_be_run_as_goose_would_is_refused(tmp_path: Path, files: list[str], problem: str) -> None:
    with pytest.raises(MigrationError, match=problem):
        collect_migrations(module(tmp_path, *files))


def test_the_highest_version_is_that_of_an_int64(tmp_path: Path) -> None:
    assert collect_migrations(module(tmp_path, "9223372036854775807_a.sql"))[0].version == 2**63 - 1


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"-- +goose Up\nSELECT 1", "1_a.sql: unfinished"),
        (b"-- +goose Up\n\xff;", "1_a.sql: line 2: byte 0xff is not UTF-8, as in a file that was saved as Latin-1"),
        ("-- +goose Up\nSELECT 'Zürich';".encode("latin-1"), "1_a.sql: line 2: byte 0xfc is not UTF-8"),
        ("-- +goose Up\nSELECT 1;".encode("utf-16"), "1_a.sql: the file is in UTF-16: save it as UTF-8"),
        ("-- +goose Up\nSELECT 1;".encode("utf-16-le"), "1_a.sql: the file holds zero bytes, as UTF-16"),
        ("-- +goose Up\nSELECT 1;".encode("utf-8-sig"), "1_a.sql: line 1: the file starts with a byte order mark"),
        (b"-- +goose Up\nCOPY t (a) FROM stdin;\n1\n\\.\n", "1_a.sql: line 2: COPY … FROM stdin is followed by data"),
        (b"-- +goose Up\n\\connect erp\n", r"1_a.sql: line 2: \\connect is a command of psql"),
        (None, "1_a.sql: Is a"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, content: bytes | None, problem: str) -> None:
    file = tmp_path / "1_a.sql"
    file.mkdir() if content is None else file.write_bytes(content)
    with pytest.raises(MigrationError, match=problem):
        collect_migrations(module(tmp_path))


def test_a_file_is_filled_in_from_the_process_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FILLFACTOR", "8642097")
    (tmp_path / "1_a.sql").write_text("-- +goose ENVSUB ON\n-- +goose Up\nSELECT $FILLFACTOR;")
    assert collect_migrations(module(tmp_path))[0].content.up == ("SELECT 8642097;",)
    assert collect_migrations(module(tmp_path), {"FILLFACTOR": "90"})[0].content.up == ("SELECT 90;",)
    assert "8642097" not in repr(collect_migrations(module(tmp_path)))


def test_line_ends_reach_the_parser_as_they_are_and_make_no_difference_to_the_checksum(tmp_path: Path) -> None:
    checksums = []
    for text in (b"-- +goose Up\nSELECT 1\n;\n", b"-- +goose Up\r\nSELECT 1\r\n;\r\n", b"-- +goose Up\nSELECT 1\r;\n"):
        (tmp_path / "1_a.sql").write_bytes(text)
        found = collect_migrations(module(tmp_path))[0]
        checksums.append(found.checksum)
    assert found.content.up == ("SELECT 1\r;",)
    assert checksums[0] == checksums[1] != checksums[2]
    assert checksums[0] == "ffb2a743b5da37ca9b5cb31e971408c7ba05fd5c2eeea7593e40e4375e414a2b"


def test_a_module_has_a_version_table_of_its_own_unless_it_declares_one(tmp_path: Path) -> None:
    assert version_table(module(tmp_path)) == "goose_db_version_stock"
    erp = module(tmp_path, "1_a.sql", name="erp", table="goose_db_version")
    assert version_table(erp) == "goose_db_version"
    assert [m.version_table for m in read_migrations([erp], event_log=False)] == ["goose_db_version"]
    assert {m.version_table for m in read_migrations([erp])} == {"goose_db_version", "goose_db_version_erpkit"}
    assert Migration("stock", 1, tmp_path, parse_migration(UP)).version_table == "goose_db_version_stock"


@pytest.mark.parametrize(
    "table",
    ["", "orders", "goose_db_version_", "Goose_db_version", 'goose_db_version"; --', "goose_db_version_" + "x" * 47],
)
def test_a_version_table_has_a_name_that_is_known_and_safe(tmp_path: Path, table: str) -> None:
    with pytest.raises(MigrationError, match="stock.*is not a valid name for a version table"):
        read_migrations([module(tmp_path, "1_a.sql", table=table)])


def test_two_modules_do_not_share_a_version_table(tmp_path: Path) -> None:
    shop = module(tmp_path, "1_a.sql", name="shop", table="goose_db_version_stock")
    with pytest.raises(MigrationError, match="modules stock and shop share the version table goose_db_version_stock"):
        read_migrations([module(tmp_path), shop])
    with pytest.raises(MigrationError, match="modules erpkit and shop share"):
        read_migrations([module(tmp_path, name="shop", table="goose_db_version_erpkit")])


@pytest.mark.parametrize(
    ("neighbours", "style", "name"),
    [
        ([], None, "00001_add_due_dates.sql"),
        (["00001_a.sql", "00009_b.sql"], None, "00010_add_due_dates.sql"),
        (["001_a.sql"], None, "002_add_due_dates.sql"),
        (["20251231235959_a.sql"], None, "20260504120000_add_due_dates.sql"),
        (["20260504120059_a.sql"], None, "20260504120100_add_due_dates.sql"),
        (["1_a.sql"], "timestamp", "20260504120000_add_due_dates.sql"),
        (["99999999999999_a.sql"], None, "100000000000000_add_due_dates.sql"),
    ],
)
def test_a_new_file_has_the_next_version_in_the_style_of_its_neighbours(
    tmp_path: Path, neighbours: list[str], style: Style | None, name: str
) -> None:
    path = new_migration(module(tmp_path, *neighbours), "Add due-dates", style=style, now=NOON)
    assert path == tmp_path / name
    assert parse_migration(path.read_text()).up == ()


@pytest.mark.parametrize(
    ("versions", "style"), [([20260101000000], "sequential"), ([2**63 - 1], None), ([20260504120000000], "timestamp")]
)
def test_a_version_that_would_be_out_of_order_is_refused(versions: list[int], style: Style | None) -> None:
    with pytest.raises(UsageError, match="out of order|does not follow"):
        next_version(versions, style=style, now=NOON)


@pytest.mark.parametrize(
    ("given", "written"), [("addDueDates", "add_due_dates"), ("V2 prices", "v2_prices"), ("a-b_c", "a_b_c")]
)
def test_a_name_becomes_words_with_underscores(tmp_path: Path, given: str, written: str) -> None:
    assert new_migration(module(tmp_path), given).name == f"00001_{written}.sql"


@pytest.mark.parametrize("name", ["", " ", "../evil", "a/b", "2nd", "a.sql", "a\nb", "é", "a  b", "x" * 101])
def test_a_bad_name_is_refused_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is not a valid name for a migration"):
        new_migration(module(tmp_path), name)
    assert list(tmp_path.iterdir()) == []


def test_a_module_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    installed = tmp_path / "site-packages" / "stock" / "migrations"
    installed.mkdir(parents=True)
    for folder, problem in (
        (None, "has no migrations folder"),
        (tmp_path / "gone", "there is no folder"),
        (installed, "installed"),
    ):
        with pytest.raises(UsageError, match=f"module stock.*{problem}"):
            new_migration(Module("stock", migrations=folder), "a")


def test_a_file_that_is_there_is_never_overwritten_nor_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "1_a.sql").write_text(UP)
    (tmp_path / "2_a.sql").symlink_to(tmp_path / "elsewhere")
    for name in ("1_a.sql", "2_a.sql"):
        with pytest.raises(UsageError, match=f"{name} is there already"):
            write_template(tmp_path / name)
    assert (tmp_path / "1_a.sql").read_text() == UP
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(UsageError, match="cannot be written: No such file"):
        write_template(tmp_path / "gone" / "1_a.sql")


def run(command: click.Command, *arguments: str, **environ: str) -> Result:
    return CliRunner(env=environ).invoke(command, arguments, standalone_mode=False)


def test_new_prints_the_path_of_the_file_that_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "files").mkdir()
    folder = f"Path({str(tmp_path / 'files')!r})"
    code = f"from erpkit import Module\nfrom pathlib import Path\nm = Module('m', migrations={folder})\n"
    (tmp_path / "lone.py").write_text(code)
    (tmp_path / "lone-1.dist-info").mkdir()
    (tmp_path / "lone-1.dist-info" / "METADATA").write_text("Name: lone\nVersion: 1\n")
    (tmp_path / "lone-1.dist-info" / "entry_points.txt").write_text("[lone.modules]\nm = lone:m\n")
    monkeypatch.syspath_prepend(tmp_path)
    done = run(new, "add due dates", "--module", "m", ERPKIT_MODULES="lone.modules")
    assert done.stdout == f"{tmp_path}/files/00001_add_due_dates.sql\n"
    done = run(new, "more", "--module", "m", "--timestamp", "--json", ERPKIT_MODULES="lone.modules")
    assert Path(json.loads(done.stdout)["path"]).read_text().startswith("-- +goose Up\n")
    assert isinstance(
        run(new, "a", "--module", "m", "--sequential", ERPKIT_MODULES="lone.modules").exception, UsageError
    )


def test_show_prints_what_would_run_and_tells_what_is_special_on_standard_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TABLE", "orders")
    file = tmp_path / "1_a.sql"
    file.write_text(
        "-- +goose NO TRANSACTION\n-- +goose ENVSUB ON\n-- +goose Up\nTABLE $TABLE;\nSELECT 2;\n-- +goose Down\nSELECT 3;\n"
    )
    done = run(show, str(file))
    assert done.stdout == "TABLE orders;\n\nSELECT 2;\n"
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["NO TRANSACTION", "ENVSUB"]
    assert run(show, str(file), "--direction", "down").stdout == "SELECT 3;\n"
    told = json.loads(run(show, str(file), "--json").stdout)
    assert told == {"statements": ["TABLE orders;", "SELECT 2;"], "use_transaction": False, "uses_environment": True}
    file.write_text("-- +goose Up\nSELECT 1")
    assert isinstance(run(show, str(file)).exception, UsageError)
