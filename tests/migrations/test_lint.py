"""What squawk says of migrations, and where it says it."""

import json
import os
import tempfile
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from erpkit import Module
from erpkit.cli.migrate_files import lint, new
from erpkit.errors import ErpkitError, UsageError
from erpkit.migrations import Migration, collect_migrations, parse_migration
from erpkit.migrations.lint import DEFAULT_RULES, LintFinding, find_squawk, lint_migrations

NO_TRANSACTION = "-- +goose NO TRANSACTION\n"


def collect(folder: Path, *ups: str, head: str = "") -> list[Migration]:
    for version, up in enumerate(ups, start=1):
        text = f"{head}-- +goose Up\n{up}\n-- +goose Down\nDROP TABLE orders;\n"
        (folder / f"{version:05}_step.sql").write_text(text)
    return collect_migrations(
        Module("shop", migrations=folder), {"TABLE": "orders", "LINES": "a\n, b", "SECRET": "s3cret"}
    )


def rules(findings: tuple[LintFinding, ...]) -> list[tuple[int, str]]:
    return [(finding.line, finding.rule) for finding in findings]


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("ALTER TABLE orders ADD COLUMN seen timestamptz DEFAULT clock_timestamp();", {"adding-field-with-default"}),
        ("ALTER TABLE orders ADD COLUMN vat int GENERATED ALWAYS AS (1) STORED;", {"adding-field-with-default"}),
        ("CREATE INDEX by_day ON orders (day);", {"require-concurrent-index-creation"}),
        ("DROP INDEX by_day;", {"require-concurrent-index-deletion"}),
        ("ALTER TABLE orders ALTER COLUMN total TYPE bigint;", {"changing-column-type"}),
        ("ALTER TABLE orders ALTER COLUMN total SET NOT NULL;", {"adding-not-nullable-field"}),
        ("ALTER TABLE orders ADD COLUMN vat numeric NOT NULL;", {"adding-required-field"}),
        ("ALTER TABLE orders DROP COLUMN total;", {"ban-drop-column"}),
        (
            "ALTER TABLE orders ADD CONSTRAINT c FOREIGN KEY (customer) REFERENCES customers (id);",
            {"adding-foreign-key-constraint", "constraint-missing-not-valid"},
        ),
        ("ALTER TABLE orders ADD CONSTRAINT c CHECK (total > 0);", {"constraint-missing-not-valid"}),
        (
            "ALTER TABLE orders ADD CONSTRAINT u UNIQUE (number);",
            {"disallowed-unique-constraint", "constraint-missing-not-valid"},
        ),
        ("ALTER TABLE orders RENAME COLUMN total TO amount;", {"renaming-column"}),
        ("ALTER TABLE orders RENAME TO sales;", {"renaming-table"}),
        ("DROP TABLE orders;", {"ban-drop-table"}),
        ("CREATE INDEX CONCURRENTLY i ON orders (day);", {"ban-concurrent-index-creation-in-transaction"}),
        ("BEGIN;\nSELECT 1;\nCOMMIT;", {"transaction-nesting"}),
        ("SELECT FROM WHERE;", {"syntax-error"}),
    ],
)
def test_a_statement_that_locks_rewrites_or_breaks_is_found(tmp_path: Path, statement: str, found: set[str]) -> None:
    assert {finding.rule for finding in lint_migrations(collect(tmp_path, statement))} == found


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE orders ADD COLUMN note text DEFAULT '';",
        "ALTER TABLE orders ADD COLUMN note varchar(10);",
        "CREATE TABLE bills (id int PRIMARY KEY, code char(3), at timestamp);\nCREATE INDEX by_code ON bills (code);",
        "ALTER TABLE orders ADD CONSTRAINT c FOREIGN KEY (customer) REFERENCES customers (id) NOT VALID;",
        "UPDATE orders SET total = 0 WHERE total IS NULL;",
    ],
)
def test_what_neither_locks_nor_breaks_is_no_finding_whatever_its_style(tmp_path: Path, statement: str) -> None:
    assert lint_migrations(collect(tmp_path, statement)) == ()


def test_an_index_may_be_built_concurrently_outside_a_transaction(tmp_path: Path) -> None:
    assert lint_migrations(collect(tmp_path, "CREATE INDEX CONCURRENTLY i ON orders (day);", head=NO_TRANSACTION)) == ()


def test_a_finding_names_the_line_of_the_file_and_the_statement_as_it_is_written(tmp_path: Path) -> None:
    first = "CREATE TABLE bills (id int);"
    second = (
        f"-- a comment\n\n{first}\n\n\nALTER TABLE bills2\n    -- inside\n    ADD COLUMN a int,\n    DROP COLUMN b;"
    )
    findings = lint_migrations(collect(tmp_path, first, second))
    assert rules(findings) == [(10, "ban-drop-column")]
    assert (findings[0].migration, findings[0].statement) == ("shop/00002_step", "ALTER TABLE bills2")
    assert (findings[0].path, findings[0].level) == (tmp_path / "00002_step.sql", "warning")
    assert str(findings[0]).startswith(f"{tmp_path}/00002_step.sql:10: warning: ban-drop-column: Dropping a column")


def test_findings_come_in_the_order_of_the_migrations(tmp_path: Path) -> None:
    ups = [f"ALTER TABLE a DROP COLUMN c{number};" for number in range(12)]
    findings = lint_migrations(collect(tmp_path, *ups))
    assert [finding.migration for finding in findings] == [f"shop/{number:05}_step" for number in range(1, 13)]


def test_only_what_goes_up_is_checked_and_no_migrations_are_no_findings(tmp_path: Path) -> None:
    assert lint_migrations(collect(tmp_path, "SELECT 1;")) == ()
    assert lint_migrations([]) == ()


def test_functions_are_read_whole(tmp_path: Path) -> None:
    body = "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$\nBEGIN\n  RETURN 1;\nEND;\n$$;"
    block = f"-- +goose StatementBegin\n{body}\n-- +goose StatementEnd\nDROP TABLE a;"
    assert rules(lint_migrations(collect(tmp_path, block))) == [(9, "ban-drop-table")]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("-- squawk-ignore ban-drop-table\nDROP TABLE a;\nDROP TABLE b;", [4]),
        ("DROP TABLE a; -- squawk-ignore ban-drop-table", []),
        ("-- squawk-ignore\nDROP TABLE a;", [3]),
        ("-- squawk-ignore ban-drop-column\nDROP TABLE a;", [3]),
        ("ALTER TABLE a\n  -- squawk-ignore ban-drop-column\n  DROP COLUMN b;", []),
        ("-- squawk-ignore ban-drop-table\n\nDROP TABLE a;", [4]),
        ("SELECT 1;\n-- squawk-ignore-file ban-drop-table\nDROP TABLE a;\nDROP TABLE b;", []),
    ],
)
def test_a_comment_of_squawks_is_honoured_as_squawk_honours_it(tmp_path: Path, text: str, found: list[int]) -> None:
    assert [finding.line for finding in lint_migrations(collect(tmp_path, text))] == found


def test_a_file_is_ignored_from_above_its_first_annotation(tmp_path: Path) -> None:
    ignored = collect(tmp_path, "DROP TABLE a;", head="-- squawk-ignore-file\n")
    assert lint_migrations(ignored) == ()


def test_variables_are_filled_in_and_a_finding_shows_none_of_their_values(tmp_path: Path) -> None:
    up = "SELECT $LINES;\nDROP TABLE $TABLE; -- $SECRET\n"
    findings = lint_migrations(collect(tmp_path, up, head="-- +goose ENVSUB ON\n"))
    assert [(f.rule, f.line, f.statement) for f in findings] == [("ban-drop-table", 4, "DROP TABLE $TABLE; -- $SECRET")]
    assert "s3cret" not in repr(findings)


def test_a_migration_that_is_in_no_file_is_checked_too(tmp_path: Path) -> None:
    parsed = parse_migration("-- +goose Up\nSELECT 1;\nDROP TABLE a;")
    findings = lint_migrations([Migration("shop", 1, tmp_path / "1_a.sql", parsed)])
    assert [(f.line, f.rule, f.statement) for f in findings] == [(3, "ban-drop-table", "")]


def test_the_servers_version_counts(tmp_path: Path) -> None:
    migrations = collect(tmp_path, "ALTER TABLE a ADD COLUMN b int DEFAULT 1;")
    assert lint_migrations(migrations, pg_version="16") == ()
    assert rules(lint_migrations(migrations, pg_version="10.3")) == [(2, "adding-field-with-default")]
    with pytest.raises(UsageError, match="'--help' is not a PostgreSQL version"):
        lint_migrations(migrations, pg_version="--help")


def test_the_rules_that_count_can_be_chosen(tmp_path: Path) -> None:
    migrations = collect(tmp_path, "CREATE TABLE a (id int);\nDROP TABLE b;")
    assert rules(lint_migrations(migrations, rules=["prefer-bigint-over-int"])) == [(2, "prefer-bigint-over-int")]
    assert "prefer-bigint-over-int" not in DEFAULT_RULES


def test_a_configuration_of_squawks_that_lies_about_makes_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".squawk.toml").write_text('excluded_rules = ["ban-drop-table"]\n')
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert rules(lint_migrations(collect(tmp_path, "DROP TABLE a;"))) == [(2, "ban-drop-table")]


def test_a_missing_squawk_is_one_line_that_says_how_to_install_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"squawk.* is not installed: pip install 'erpkit\[lint\]'"):
        find_squawk([tmp_path])
    assert os.access(find_squawk(), os.X_OK)


def test_the_sample_erps_migrations_have_one_finding(migrations: list[Migration]) -> None:
    assert [(f.migration, f.line, f.rule) for f in lint_migrations(migrations)] == [
        ("billing/00004_due_dates", 4, "require-concurrent-index-creation")
    ]


def run(command: click.Command, *arguments: str) -> Result:
    return CliRunner(env={"ERPKIT_MODULES": "erpkit.sample"}).invoke(command, arguments, standalone_mode=False)


def test_lint_ends_with_3_on_a_finding_and_names_file_line_and_statement() -> None:
    done = run(lint, "--module", "billing", "-o", "table")
    assert done.return_value == 3
    assert "00004_due_dates.sql:4: warning: require-concurrent-index-creation" in done.output
    assert "CREATE INDEX billing_invoices_due" in done.output
    assert done.output.endswith("migrations, 1 finding\n")
    assert json.loads(run(lint, "--json").output)[0]["migration"] == "billing/00004_due_dates"
    assert run(lint, "--module", "catalog", "--module", "sales", "--pg-version", "18").return_value == 0


def test_a_module_that_there_is_not_is_named() -> None:
    for done in (run(lint, "--module", "nope"), run(new, "a", "--module", "nope")):
        assert isinstance(done.exception, ErpkitError)
        assert str(done.exception) == "there is no module 'nope'; there are catalog, sales, inventory, billing"
