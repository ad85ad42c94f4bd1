"""Migrations that would stop work: which statements lock or rewrite tables, break the code that is running, or reach beyond the
tenant.

squawk knows the rules (https://squawkhq.com/docs/rules); this gives it what goose would run, and says where it stands in the file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erpkit.errors import MigrationError, UsageError
from erpkit.finding import Finding, Severity
from erpkit.migrations.files import Migration
from erpkit.migrations.reach import find_reach
from erpkit.migrations.script import is_atomic, start_lines
from erpkit.migrations.tokens import split_statements
from erpkit.result import Summary, TableResult
from erpkit.table import Column, Table, Tone

_LOCKS_OR_REWRITES = (
    "adding-field-with-default",  # a volatile default, or a generated column, rewrites the table
    "adding-foreign-key-constraint",
    "adding-not-nullable-field",
    "adding-serial-primary-key-field",
    "ban-alter-domain-with-add-constraint",
    "changing-column-type",
    "constraint-missing-not-valid",
    "disallowed-unique-constraint",
    "prefer-repack",  # VACUUM FULL and CLUSTER, from PostgreSQL 19
    "require-concurrent-index-creation",
    "require-concurrent-index-deletion",
    "require-concurrent-partition-detach",
    "require-concurrent-reindex",
)
_BREAKS_RUNNING_CODE = (
    "adding-required-field",
    "ban-drop-column",
    "ban-drop-database",
    "ban-drop-not-null",
    "ban-drop-table",
    "ban-truncate-cascade",
    "renaming-column",
    "renaming-table",
)
_CANNOT_RUN_AS_MEANT = (
    "ban-concurrent-index-creation-in-transaction",
    "ban-duplicate-column-assignments",
    "ban-uncommitted-transaction",
    "identifier-too-long",
    "syntax-error",
    "transaction-nesting",
)
# Left out is what is taste (types, IDENTITY, IF NOT EXISTS, the order of enum values), what tenant schemas forbid
# (require-table-schema), and timeouts, which are for the runner to set.
DEFAULT_RULES = frozenset((*_LOCKS_OR_REWRITES, *_BREAKS_RUNNING_CODE, *_CANNOT_RUN_AS_MEANT))

REACHES = frozenset(("leaves-schema", "only-once", "other-schema", "whole-server"))

_VERSION = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){0,2}")
_IGNORE = re.compile(r"\s*--\s*squawk-ignore")


@dataclass(frozen=True)
class LintFinding:
    """A statement that breaks one of squawk's rules, or reaches beyond the tenant.

    `line` is that of the file, `statement` the first line of the statement as it is written there; `level` is `error` or
    `warning`. https://squawkhq.com/docs/<rule> says more, but of `only-once`, `other-schema`, `leaves-schema` and
    `whole-server`, which are erpkit's.
    """

    migration: str
    path: Path
    line: int
    statement: str
    rule: str
    level: str
    message: str
    help: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.level}: {self.rule}: {self.message}{self.help and ' ' + self.help}"

    @property
    def severity(self) -> Severity:
        """The level that squawk gives it."""
        return "error" if self.level == "error" else "warning"

    @property
    def finding(self) -> Finding:
        """What squawk says, as a finding."""
        problem = f"{self.rule}: {self.statement}"
        return Finding(
            "lint", f"{self.migration}:{self.line}", problem, self.severity, self.help, (self.message,), "line"
        )


@dataclass(frozen=True, repr=False)
class LintReport(TableResult):
    """What squawk found; `note` says why there can be no findings where squawk is not installed.

    `checked` is how many migrations were checked, None where the caller knows.
    """

    findings: tuple[LintFinding, ...]
    note: str = ""
    checked: int | None = None

    @property
    def all_findings(self) -> list[Finding]:
        """The findings as records that other results have, too; that nothing was linted is one of them."""
        nothing = [Finding("no migrations", "", "there are no migrations", remedy="erpkit modules list")]
        note = [Finding("not linted", "", self.note, "info")] if self.note else []
        return [*(finding.finding for finding in self.findings), *note, *(nothing if self.checked == 0 else [])]

    @property
    def table(self) -> Table[LintFinding]:
        """One line a statement that locks, rewrites or breaks running code."""
        return Table(
            _COLUMNS,
            self.findings,
            self.note or "No statement locks, rewrites or breaks anything.",
            is_trouble=True,
            about=("lint", "not linted"),
        )

    @property
    def summary(self) -> Summary:
        """How many migrations were checked, and what was found."""
        facts = {"migrations": self.checked, "findings": len(self.findings)}
        return Summary("Lint of migrations", facts, self.all_findings)


def _tone(finding: LintFinding) -> Tone:
    return finding.severity if finding.severity != "info" else ""


_COLUMNS = (
    Column[LintFinding]("where", lambda f: f"{f.migration}:{f.line}"),
    Column[LintFinding]("statement", lambda f: f.statement),
    Column[LintFinding]("level", lambda f: f.level, tone=_tone),
    Column[LintFinding]("why", lambda f: f"{f.rule}: {f.message} {f.help}".rstrip()),
)


def lint_report(
    migrations: Sequence[Migration], shared: Collection[str] = (), extensions: Mapping[str, str] | None = None
) -> LintReport:
    """Check the Up statements of `migrations`; without squawk the report says so instead of failing.

    `shared` are the schemas that are declared as such, and `extensions` those that are installed, with the schema of each.
    """
    own = find_reaching(migrations, shared, extensions)
    try:
        return LintReport(in_order(migrations, [*own, *lint_migrations(migrations)]))
    except UsageError as error:
        return LintReport(own, f"not linted: {error}")


def find_reaching(
    migrations: Sequence[Migration], shared: Collection[str] = (), extensions: Mapping[str, str] | None = None
) -> tuple[LintFinding, ...]:
    """Name the Up statements of `migrations` that reach beyond the tenant; see `reach.find_reach`."""
    return tuple(
        LintFinding(m.name, m.path, line, _written(m, line), found.rule, "error", found.message, found.help)
        for m in migrations
        for start, text in zip(m.content.up_lines, m.content.up, strict=True)
        for one in split_statements(text)
        if (found := find_reach(one, shared, extensions))
        for line in [start + text.count("\n", 0, one.start)]
    )


def in_order(migrations: Sequence[Migration], findings: Sequence[LintFinding]) -> tuple[LintFinding, ...]:
    """Return the findings in the order of their migrations and lines."""
    order = {migration.name: number for number, migration in enumerate(migrations)}
    return tuple(sorted(findings, key=lambda finding: (order[finding.migration], finding.line, finding.rule)))


def _written(migration: Migration, line: int) -> str:
    """Return a line of a file as it stands there; a migration need not come from a file."""
    return (migration.text.split("\n")[line - 1 : line] or [""])[0].strip()


def lint_migrations(
    migrations: Sequence[Migration], *, pg_version: str | None = None, rules: Collection[str] = DEFAULT_RULES
) -> tuple[LintFinding, ...]:
    """Check the Up statements of `migrations` with squawk, one process for all of them; no database is needed.

    `pg_version` is the server's ("16", "15.4"), squawk's own idea unless given; `rules` are those that count. A comment
    `-- squawk-ignore <rule>` on the line above is honoured, and so is `-- squawk-ignore-file` anywhere. Raises UsageError where squawk
    is not installed, and MigrationError where it fails.
    """
    if pg_version is not None and not _VERSION.fullmatch(pg_version):
        raise UsageError(f"{pg_version!r} is not a PostgreSQL version: write 16 or 15.4")
    squawk = find_squawk()
    if not migrations:
        return ()
    scripts = [_script(migration) for migration in migrations]
    found = _run(squawk, [text for text, _ in scripts], pg_version)
    findings = [
        _finding(migrations[number], scripts[number][1], raw)
        for number, raw in found
        if raw["rule_name"] in rules  # a newer squawk's rules are its users' to choose
    ]
    return in_order(migrations, findings)


def _script(migration: Migration) -> tuple[str, list[int]]:
    """Return what would be run, and for each of its lines the line of the file that it comes from.

    The transaction is spelt out: squawk's own option holds for all files, and lets a lone CREATE INDEX CONCURRENTLY pass.
    """
    lines: list[str] = ["BEGIN;"] if is_atomic(migration) else []
    origin = [0] * len(lines)
    for start, text in sorted(_parts(migration)):
        while origin and 0 < origin[-1] < start - 1:  # squawk-ignore holds for the next line: keep them apart
            origin.append(origin[-1] + 1)
            lines.append("")
        for offset, line in enumerate(text.split("\n")):
            lines.append(line)
            origin.append(start + offset)
    return "\n".join([*lines, *(["COMMIT;"] if is_atomic(migration) else []), ""]), origin


def _parts(migration: Migration) -> Iterator[tuple[int, str]]:
    """Yield the Up statements, and squawk's comments between them, which goose drops, with the lines that they start on."""
    inside: set[int] = set()
    for start, statement in zip(migration.content.up_lines, migration.content.up, strict=True):
        inside.update(range(start, start + statement.count("\n") + 1))
        yield start, statement
    for number, line in enumerate(migration.text.split("\n"), start=1):
        if number not in inside and _IGNORE.match(line):
            yield number, line.strip()


def _run(squawk: str, scripts: Sequence[str], pg_version: str | None) -> list[tuple[int, Mapping[str, Any]]]:
    """Run squawk; return its findings, each with the number of its script."""
    with tempfile.TemporaryDirectory(prefix="erpkit-lint-") as work:
        for number, script in enumerate(scripts):
            (Path(work) / f"{number}.sql").write_text(script, encoding="utf-8")
        (Path(work) / "squawk.toml").touch()  # or it looks for one in the folders above
        options = [f"--pg-version={pg_version}"] if pg_version else []
        done = subprocess.run(
            [squawk, "--config=squawk.toml", "--reporter=json", *options, "*.sql"],
            cwd=work, capture_output=True, text=True, check=False,
        )  # fmt: skip
    try:
        return [(int(Path(raw["file"]).stem), raw) for raw in json.loads(done.stdout)]
    except ValueError:
        complaint = (done.stderr or done.stdout).strip().splitlines() or [f"it ended with {done.returncode}"]
        raise MigrationError(f"squawk failed: {complaint[0]}") from None


def _finding(migration: Migration, origin: Sequence[int], raw: Mapping[str, Any]) -> LintFinding:
    line = origin[min(raw["line"], len(origin) - 1)]  # it counts from 0
    start = max((number for number in start_lines(migration) if number <= line), default=1)
    return LintFinding(
        migration=migration.name,
        path=migration.path,
        line=line,
        statement=_written(migration, start),
        rule=raw["rule_name"],
        level=raw["level"].lower(),
        message=raw["message"],
        help=raw["help"] or "",
    )


def find_squawk(folders: Sequence[str | Path] | None = None) -> str:
    """Return the path of the squawk program, from where pip puts it, or PATH, unless `folders` are given.

    Raises UsageError, saying how to install it, where there is none.
    """
    if folders is None:
        folders = [sysconfig.get_path("scripts"), *os.get_exec_path()]  # the first need not be on the path
    found = shutil.which("squawk", path=os.pathsep.join(map(str, folders)))
    if found is None:
        raise UsageError("squawk, which checks migrations, is not installed: pip install 'erpkit[lint]'")
    return found
