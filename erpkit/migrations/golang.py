"""golang-migrate's files and its table of one row: how it names migrations, splits them, and records and locks them.

The rules are those of golang-migrate v4 (`source/parse.go`, `source/iofs`, `migrate.go`, `database/postgres/postgres.go`,
`database/util.go`), so that a tenant may be migrated by either of the two.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from psycopg import sql

from erpkit.errors import MigrationError
from erpkit.migrations.parser import Direction, ParsedMigration

TOOL = "golang-migrate"
DEFAULT_TABLE = "schema_migrations"
NIL = -1  # the version of a tenant without any migration: its table has no row
UNTIL_FORCED = "until `erpkit migrate force`"  # in the text of what stopped half way: no run goes on by itself

_FILE_NAME = re.compile(r"([0-9]+)_(.*)\.(down|up)\.(.*)", re.DOTALL)
_GOOSE_NAME = re.compile(r"[0-9]+_.*\.sql", re.DOTALL)
_GOOSE_ANNOTATION = re.compile(rb"^\s*--.*\+goose\s+up\b", re.IGNORECASE | re.MULTILINE)
_TABLE = re.compile(r"(?!goose_db_version|erpkit_)[A-Za-z_][A-Za-z0-9_]{0,62}")
_INT64_MAX = 2**63 - 1
_SALT = 1486364155  # of golang-migrate's GenerateAdvisoryLockId


@dataclass(frozen=True)
class Pair:
    """The files of one version: `up`, `down` or both; golang-migrate runs nothing where one is missing."""

    up: Path | None
    down: Path | None


@dataclass(frozen=True)
class Detail:
    """What its table must know of a migration: the version `before` it, NIL for the first; `down` is its Down file."""

    down: Path | None
    before: int = NIL


@dataclass(frozen=True)
class Mark:
    """The row of golang-migrate's table: `dirty` is set before a file is run and cleared after it."""

    version: int = NIL
    dirty: bool = False

    def __str__(self) -> str:
        version = "no version" if self.version == NIL else f"version {self.version}"
        return f"{version} (dirty)" if self.dirty else version


def uses_golang(folder: Path, table: str | None = None) -> bool:
    """Tell by the names of its files whether a folder is golang-migrate's; an empty one by the name of its version `table`.

    Raises MigrationError where it holds a file that golang-migrate would pass over without a word, and goose would run.
    """
    paths = _files(folder)
    ours = [path for path in paths if _FILE_NAME.fullmatch(path.name)]
    others = [path for path in paths if path not in ours and _GOOSE_NAME.fullmatch(path.name)]
    if not ours:
        return not others and (table or "").startswith(DEFAULT_TABLE)
    if all(_GOOSE_ANNOTATION.search(path.read_bytes()) for path in ours):  # 00003_sign.up.sql may be goose's
        return False
    if others:
        raise MigrationError(
            f"{others[0]}: golang-migrate, whose files are in this folder ({ours[0].name}), passes over a file with this name: "
            "name it <version>_<name>.up.sql, or move it"
        )
    return True


def is_golang_file(path: Path) -> bool:
    """Tell by its name whether a file is golang-migrate's."""
    return _FILE_NAME.fullmatch(path.name) is not None and not _GOOSE_ANNOTATION.search(path.read_bytes())


def find_pairs(folder: Path) -> dict[int, Pair]:
    """Return the files of a folder (not of those below it) by version, in order, unread.

    Files without a version in their name are left alone. Raises MigrationError for a file that is there twice, and for a version
    that PostgreSQL's bigint cannot hold.
    """
    found: dict[tuple[int, str], Path] = {}
    for path in _files(folder):
        if (match := _FILE_NAME.fullmatch(path.name)) is None:
            continue
        version = _version(path, match[1])
        if twin := found.get((version, match[3])):
            raise MigrationError(f"{path}: version {version} {match[3]} is taken by {twin.name}")
        found[version, match[3]] = path
    versions = sorted({version for version, _ in found})
    return {version: Pair(found.get((version, "up")), found.get((version, "down"))) for version in versions}


def _version(path: Path, digits: str) -> int:
    significant = digits.lstrip("0") or "0"
    if len(significant) > 19 or int(significant) > _INT64_MAX:
        raise MigrationError(f"{path}: version {digits} is not between 0 and {_INT64_MAX}")
    return int(significant)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def stem(path: Path) -> str:
    """Return the name of a file without its direction and what follows: `000004_due_dates`."""
    match = _FILE_NAME.fullmatch(path.name)
    return f"{match[1]}_{match[2]}" if match else path.stem


def check_table(module: str, table: str) -> str:
    """Return the name of a version table; raises MigrationError for one that must be quoted, or is goose's or erpkit's."""
    if not _TABLE.fullmatch(table):
        raise MigrationError(
            f"module {module}: {table!r} is not a valid name for golang-migrate's version table: use letters, digits and _ "
            "(63 characters at most), as in schema_migrations"
        )
    return table


def parse_pair(up: str, down: str, *, multi_statement: bool = False) -> ParsedMigration:
    """Return what golang-migrate would send for a version: whole files, or what is between semicolons with `multi_statement`.

    That is its `x-multi-statement`, which knows neither quotes nor function bodies.
    """
    (ups, up_lines), (downs, down_lines) = _split(up, multi_statement), _split(down, multi_statement)
    return ParsedMigration(ups, downs, use_transaction=False, up_lines=up_lines, down_lines=down_lines)


def parse_file(path: Path, text: str) -> ParsedMigration:
    """Return what golang-migrate would send of one file alone, in the direction that its name says; raises MigrationError."""
    match = _FILE_NAME.fullmatch(path.name)
    return parse_pair("", text) if match and match[3] == "down" else parse_pair(text, "")


def _split(text: str, multi_statement: bool) -> tuple[tuple[str, ...], tuple[int, ...]]:
    if text.startswith("\ufeff"):
        raise MigrationError("the file starts with a byte order mark: save it as UTF-8 without one")
    if not multi_statement:
        return ((text,), (1,)) if text.strip() else ((), ())
    statements, lines, line = list[str](), list[int](), 1
    for piece in re.findall(r"[^;]*;|[^;]+", text):
        if piece.strip():
            statements.append(piece.strip())
            lines.append(line + piece[: len(piece) - len(piece.lstrip())].count("\n"))
        line += piece.count("\n")
    return tuple(statements), tuple(lines)


def lock_keys(database: str, schema: str, table: str) -> tuple[int, ...]:
    """Return the keys of the advisory locks that golang-migrate takes for a version table.

    Its command line, and whatever opens it by a URL, takes the URL's path for the name of the database, slash included; a program
    that hands it a connection takes the name itself.
    """
    names = ("\0".join((schema, table, name)).encode() for name in (f"/{database}", database))
    return tuple(zlib.crc32(name) * _SALT % 2**32 for name in names)


def create_table(schema: str, table: str) -> str:
    """Return the statement that makes the version table where it is missing."""
    name = sql.Identifier(schema, table).as_string()
    return f"CREATE TABLE IF NOT EXISTS {name} (version bigint NOT NULL PRIMARY KEY, dirty boolean NOT NULL)"


def set_mark(schema: str, table: str, mark: Mark) -> str:
    """Return the statements that rewrite the row; they belong into one transaction.

    golang-migrate does it by TRUNCATE, which would wait for everybody who reads the table, a backup for one.
    """
    name = sql.Identifier(schema, table).as_string()
    insert = f";\nINSERT INTO {name} (version, dirty) VALUES ({mark.version}, {str(mark.dirty).lower()})"
    return f"DELETE FROM {name}" + (insert if mark.version != NIL or mark.dirty else "")  # noqa: S608 - quoted


def read_mark(schema: str, table: str) -> str:
    """Return the query for the row."""
    return f"SELECT version, dirty FROM {sql.Identifier(schema, table).as_string()}"  # noqa: S608 - quoted


def target(version: int, before: int, direction: Direction) -> int:
    """Return the version that a migration ends at, which golang-migrate writes down before it begins."""
    return version if direction == "up" else before


def is_done(mark: Mark, version: int, before: int, direction: Direction) -> bool:
    """Tell whether somebody else has done a migration already, by the row that is read under the locks.

    Raises MigrationError where the row is dirty, or stands where the migration must not be run.
    """
    if mark.dirty:
        raise MigrationError(
            f"{mark} now: a migration of another process stopped half way; it stays dirty {UNTIL_FORCED}"
        )
    start, end = (before, version) if direction == "up" else (version, before)
    if mark.version == start:
        return False
    if (mark.version >= end) if direction == "up" else (mark.version <= end):
        return True
    raise MigrationError(f"{mark} by now, and this migration starts from {Mark(start)}: plan again")


def versions_in_force(mark: Mark, files: Iterable[int]) -> tuple[int, ...]:
    """Return the versions that the row stands for: all files up to it, and its own version if there is no file for it."""
    return tuple(sorted({*(one for one in files if one <= mark.version), *({mark.version} - {NIL})}))
