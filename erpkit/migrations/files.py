"""Migration files of a module, goose's or golang-migrate's, in one folder; reading them, and writing a new one."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Literal

from erpkit.errors import MigrationError, UsageError
from erpkit.migrations.golang import DEFAULT_TABLE, NIL, Detail, check_table, find_pairs, parse_pair, stem, uses_golang
from erpkit.migrations.parser import Direction, ParsedMigration, parse_migration
from erpkit.modules import Module, ModuleLike

# erpkit's own tables in each tenant's schema: the event log, the inbox, checkpoints and dead letters.
EVENT_LOG = Module("erpkit", migrations=Path(__file__).parent.parent / "events" / "migrations")

VERSION_TABLE = "goose_db_version"
VERSION_TABLES = (
    VERSION_TABLE,
    DEFAULT_TABLE,
)  # how the tables begin that hold versions, unless named otherwise

# The number is read as Go's ParseInt reads it; `.*` is whatever else the file's name holds.
_FILE_NAME = re.compile(r"(\+?[0-9]+)_.*\.(sql|go)", re.DOTALL)
_INT64_MAX = 2**63 - 1
# Elsewhere a version table is known by how its name begins; PostgreSQL cuts names off after 63 bytes.
_VERSION_TABLE = re.compile(r"goose_db_version(_[a-z0-9_]{1,46})?")

# UTF-32 in this order begins with the mark of UTF-16.
_MARKS = {b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_COPY_FROM = re.compile(r"\s*copy\b.*\bfrom\s+stdin\b.*;\s*$", re.IGNORECASE)
_PSQL = re.compile(r"\s*\\(?:[a-z]\w*|[.!?])", re.IGNORECASE)

Style = Literal["sequential", "timestamp"]

_TIMESTAMP = "%Y%m%d%H%M%S"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*([ _-][A-Za-z0-9]+)*")
_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
# A comment may not show goose's annotations: it would be one.
_TEMPLATE = """\
-- +goose Up
-- The statements that bring a tenant up, each with its semicolon at the end of a line. Name tables without a schema.

-- +goose Down
-- The statements that take it back.
"""


@dataclass(frozen=True)
class Migration:
    """One migration of a module; `content` is its parsed file, `text` the file as it was read.

    `version_table` is the table that records it, in the tenant's schema. Of a migration in golang-migrate's format, `path` is its Up
    file (or the Down file where there is no other), and `golang` says what that tool's table must know; it is None for goose's.
    """

    module: str
    version: int
    path: Path
    content: ParsedMigration = field(repr=False)
    text: str = field(default="", repr=False, compare=False)
    version_table: str = ""
    golang: Detail | None = None

    def __post_init__(self) -> None:
        if not self.version_table:
            object.__setattr__(self, "version_table", default_table(self.module))

    def __hash__(self) -> int:
        return hash((self.version_table, self.version))  # not over all the text, as a plan looks up each tenant's

    @property
    def name(self) -> str:
        """Name for people: `billing/00004_due_dates`."""
        return f"{self.module}/{stem(self.path) if self.golang else self.path.stem}"

    def file(self, direction: Direction = "up") -> Path:
        """Return the file that holds the statements for one direction."""
        return self.golang.down if self.golang and self.golang.down and direction == "down" else self.path

    @cached_property
    def checksum(self) -> str:
        r"""SHA-256 of the file's text in hexadecimal digits; whether a line ends in "\n" or "\r\n" makes no difference."""
        return hashlib.sha256(self.text.replace("\r\n", "\n").encode()).hexdigest()


Step = tuple[Migration, Direction]


def version_table(module: ModuleLike) -> str:
    """Return the name of a module's version table, in the tenant's schema.

    It is `goose_db_version_<name>` unless the module declares one; raises MigrationError for a name that is not
    `goose_db_version`, alone or followed by `_`, a-z and 0-9. For golang-migrate's files it is `schema_migrations`, or any other name
    that need not be quoted. `version_table` is optional in a module, as `queries` is.
    """
    declared: str | None = getattr(module, "version_table", None)
    if module.migrations is not None and uses_golang(module.migrations, declared):
        return check_table(module.name, DEFAULT_TABLE if declared is None else declared)
    table = declared if declared is not None else default_table(module.name)
    if not _VERSION_TABLE.fullmatch(table):
        raise MigrationError(
            f"module {module.name}: {table!r} is not a valid name for a version table: use goose_db_version, or "
            "goose_db_version_ and a-z, 0-9, _ (63 characters at most)"
        )
    return table


def read_migrations(modules: Iterable[ModuleLike], *, event_log: bool = True) -> tuple[Migration, ...]:
    """Read all migrations in the order to apply them in: erpkit's own first, then module by module in load order.

    `event_log` leaves erpkit's own out where it is False: in a database that erpkit only reads.
    Raises MigrationError, naming the file, for a broken or duplicate one, and for two modules that share a version table:
    nothing is run while anything is broken.
    """
    all_modules = (EVENT_LOG, *modules) if event_log else tuple(modules)
    _check_tables(all_modules)
    return tuple(migration for module in all_modules for migration in collect_migrations(module))


def collect_migrations(module: ModuleLike, environ: Mapping[str, str] | None = None) -> list[Migration]:
    """Read one module's migrations, sorted by version; `ENVSUB ON` fills in from `environ`, os.environ unless given.

    Raises MigrationError as `find_versions` does, and for a file that goose could not read.
    """
    if module.migrations is None:
        return []
    if not module.migrations.is_dir():
        raise MigrationError(f"module {module.name}: there is no migrations folder {module.migrations}")
    table = version_table(module)
    if uses_golang(module.migrations, table):
        return _read_pairs(module, module.migrations, table)
    if getattr(module, "multi_statement", False):
        raise MigrationError(
            f"module {module.name}: multi_statement is for golang-migrate's files, and these are goose's"
        )
    values = os.environ if environ is None else environ
    return [
        _read(module.name, version, path, table, values) for version, path in find_versions(module.migrations).items()
    ]


def find_versions(folder: Path) -> dict[int, Path]:
    """Return the migration files of a folder (not of those below it) by version, in order, unread.

    Files without a version in their name are left alone, as by goose. Raises MigrationError for a version that is taken
    twice or is not an int64 from 1, and for a migration written in Go: goose would run it, and erpkit cannot.
    """
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None or path.name.endswith("_test.go"):
            continue
        version = _version(path, match[1])
        if twin := found.get(version):
            raise MigrationError(f"{path}: version {version} is taken by {twin.name}")
        found[version] = path
        if match[2] == "go":
            raise MigrationError(
                f"{path}: a migration in Go, which goose would run and erpkit cannot: "
                "rewrite it in SQL, or run this folder with goose"
            )
    return dict(sorted(found.items()))


def _version(path: Path, digits: str) -> int:
    significant = digits.lstrip("+0")
    if len(significant) > 19 or not 1 <= int(significant or "0") <= _INT64_MAX:
        raise MigrationError(f"{path}: version {digits} is not between 1 and {_INT64_MAX}")
    return int(significant)


def _read(module: str, version: int, path: Path, table: str, environ: Mapping[str, str]) -> Migration:
    text = _read_text(path)
    try:
        return Migration(module, version, path, parse_migration(text, environ), text, table)
    except MigrationError as error:
        raise MigrationError(f"{path}: {_for_psql(text) or error}") from None


def _read_pairs(module: ModuleLike, folder: Path, table: str) -> list[Migration]:
    multi_statement: bool = getattr(module, "multi_statement", False)
    found: list[Migration] = []
    for version, pair in find_pairs(folder).items():
        path = pair.up or pair.down
        assert path is not None
        text, down = (_read_text(one) if one else "" for one in (pair.up, pair.down))
        try:
            content = parse_pair(text, down, multi_statement=multi_statement)
        except MigrationError as error:
            raise MigrationError(f"{path}: {error}") from None
        detail = Detail(pair.down, found[-1].version if found else NIL)
        found.append(Migration(module.name, version, path, content, text, table, detail))
    return found


def _read_text(path: Path) -> str:
    try:
        return decode(path.read_bytes())
    except OSError as error:
        raise MigrationError(f"{path}: {error.strerror}") from None
    except MigrationError as error:
        raise MigrationError(f"{path}: {error}") from None


def decode(content: bytes) -> str:
    """Return a file's text; raises MigrationError, which names the encoding that it seems to have, unless that is UTF-8."""
    for mark, name in _MARKS.items():
        if content.startswith(mark):
            raise MigrationError(f"the file is in {name}: save it as UTF-8 without a byte order mark")
    if b"\0" in content[:200]:
        raise MigrationError("the file holds zero bytes, as UTF-16 without a byte order mark does: save it as UTF-8")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise MigrationError(
            f"line {line}: byte 0x{content[error.start]:02x} is not UTF-8, as in a file that was saved as Latin-1 or "
            "Windows-1252: save it as UTF-8"
        ) from None


def _for_psql(text: str) -> str:
    """Say which line of a file that could not be read is meant for psql, which may be why; "" where there is none."""
    for number, line in enumerate(text.split("\n"), start=1):
        if _COPY_FROM.match(line):
            return f"line {number}: COPY … FROM stdin is followed by data, which psql reads itself: write INSERT (pg_dump --inserts)"
        if found := _PSQL.match(line):
            return (
                f"line {number}: {found[0].strip()} is a command of psql, which PostgreSQL does not know: take it out"
            )
    return ""


def _check_tables(modules: Iterable[ModuleLike]) -> None:
    owners: dict[str, str] = {}
    for module in modules:
        if module.migrations is None:
            continue
        table = version_table(module)
        if other := owners.get(table):
            raise MigrationError(
                f"modules {other} and {module.name} share the version table {table}: give each its own (version_table), or join them"
            )
        owners[table] = module.name


def default_table(module: str) -> str:
    """Return the name of the version table of a module that declares none."""
    return f"goose_db_version_{module}"


def new_migration(module: ModuleLike, name: str, *, style: Style | None = None, now: datetime | None = None) -> Path:
    """Write an empty migration into a module's folder and return its path; no file is ever overwritten.

    In a folder of golang-migrate's files it is a pair, and the path that of the Up file.

    `name` is a few words ("add due dates"); `style` is that of the folder's newest version unless given, and a new folder is
    sequential. Raises UsageError for a bad name, a module without a folder or one that is installed, and a version that
    would be out of order; MigrationError where the folder's files clash already.
    """
    words = _snake_case(name)
    folder = _writable_folder(module)
    now = now or datetime.now(UTC)
    if uses_golang(folder, getattr(module, "version_table", None)):
        return _new_pair(folder, words, style, now)
    versions = find_versions(folder)
    version = next_version(versions, style=style, now=now)
    path = folder / f"{version:0{_width(versions)}}_{words}.sql"
    write_template(path)
    return path


def _new_pair(folder: Path, words: str, style: Style | None, now: datetime) -> Path:
    """golang-migrate writes sequential versions with six digits."""
    versions = {version: pair.up or pair.down or folder for version, pair in find_pairs(folder).items()}
    version = next_version(versions, style=style, now=now)
    file = f"{version:0{_width(versions) if versions else 6}}_{words}"
    write_template(
        folder / f"{file}.up.sql", "-- The statements that bring a tenant up. Name tables without a schema.\n"
    )
    write_template(folder / f"{file}.down.sql", "-- The statements that take it back.\n")
    return folder / f"{file}.up.sql"


def write_template(path: Path, text: str = _TEMPLATE) -> None:
    """Write a migration without statements, where there is no file yet; raises UsageError otherwise."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{path} is there already, perhaps since a moment ago: try again") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None


def next_version(versions: Iterable[int], *, style: Style | None, now: datetime) -> int:
    """Return the version that follows `versions`; `now` is in UTC. Pure.

    A version below the newest one would be out of order for every tenant that has that, and is a UsageError.
    """
    newest = max(versions, default=0)
    newest_time = _as_time(newest)
    if style == "timestamp" or (style is None and newest_time is not None):
        if newest_time is not None:
            now = max(now, newest_time + timedelta(seconds=1))  # two in one second
        version = int(now.strftime(_TIMESTAMP))
    elif newest_time is not None:
        raise UsageError(
            f"the newest version, {newest}, is a timestamp: a sequential one would be out of order; use --timestamp"
        )
    else:
        version = newest + 1
    if not newest < version <= _INT64_MAX:
        raise UsageError(f"version {version} does not follow {newest}, the newest one")
    return version


def _width(versions: Mapping[int, Path]) -> int:
    """Return how many digits the newest version is written with, so that names sort as versions do; goose writes five."""
    newest = versions.get(max(versions, default=0))
    return 5 if newest is None else len(newest.name.split("_")[0])


def _as_time(version: int) -> datetime | None:
    if len(str(version)) != 14:
        return None
    try:
        return datetime.strptime(str(version), _TIMESTAMP).replace(tzinfo=UTC)
    except ValueError:
        return None


def _snake_case(name: str) -> str:
    words = _WORD_START.sub("_", name)
    if not _NAME.fullmatch(name) or len(words) > 100:
        raise UsageError(
            f"{name!r} is not a valid name for a migration: use a few words of letters and digits, such as 'add due dates'"
        )
    return re.sub("[ -]", "_", words).lower()


def _writable_folder(module: ModuleLike) -> Path:
    folder = module.migrations
    if folder is None:
        raise UsageError(f"module {module.name} has no migrations folder: declare one, migrations=Path(…)")
    if not folder.is_dir():
        raise UsageError(f"module {module.name}: there is no folder {folder}: make it first")
    if _is_installed(folder) or not os.access(folder, os.W_OK):
        raise UsageError(f"module {module.name} is installed, or may not be written to, in {folder}: use its checkout")
    return folder


def _is_installed(folder: Path) -> bool:
    return bool({"site-packages", "dist-packages"} & set(folder.resolve().parts))
