"""Migration files of a module: `<version>_<name>.sql` in one folder."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from erpkit.errors import MigrationError
from erpkit.migrations.parser import ParsedMigration, parse_migration
from erpkit.modules import Module, ModuleLike

__all__ = ["EVENT_LOG", "Migration", "collect_migrations", "read_migrations", "version_table"]

# erpkit's own tables in each tenant's schema: the event log, the inbox, checkpoints and dead letters.
EVENT_LOG = Module("erpkit", migrations=Path(__file__).parent.parent / "events" / "migrations")

VERSION_TABLE = "goose_db_version"

_FILE_NAME = re.compile(r"(\d+)_(.*)\.sql")
_INT64_MAX = 2**63 - 1


@dataclass(frozen=True)
class Migration:
    """One migration of a module; `content` is its parsed file."""

    module: str
    version: int
    path: Path
    content: ParsedMigration = field(repr=False)

    @property
    def name(self) -> str:
        """Name for people: `billing/00004_due_dates`."""
        return f"{self.module}/{self.path.stem}"

    @property
    def checksum(self) -> str:
        """A hash of what it does."""
        return hashlib.sha256(repr(self.content).encode()).hexdigest()

    @property
    def version_table(self) -> str:
        """The goose version table that records it."""
        return version_table(self.module)


def version_table(module: str) -> str:
    """Return the name of a module's goose version table, in the tenant's schema."""
    return f"goose_db_version_{module}"


def read_migrations(modules: Iterable[ModuleLike], *, event_log: bool = True) -> tuple[Migration, ...]:
    """Read all migrations in the order to apply them in: erpkit's own first, then module by module in load order.

    `event_log` leaves erpkit's own out where it is False: in a database that erpkit only reads.
    Raises MigrationError, naming the file, for a broken or duplicate one: nothing is run while any file is broken.
    """
    return tuple(
        migration
        for module in ((EVENT_LOG, *modules) if event_log else modules)
        for migration in collect_migrations(module)
    )


def collect_migrations(module: ModuleLike) -> list[Migration]:
    """Read one module's migrations, sorted by version; files without a version in their name are left alone, as by goose."""
    if module.migrations is None:
        return []
    if not module.migrations.is_dir():
        raise MigrationError(f"module {module.name}: there is no migrations folder {module.migrations}")
    found: dict[int, Migration] = {}
    for path in sorted(module.migrations.glob("*.sql")):
        migration = _read(module.name, path)
        if migration is None:
            continue
        if twin := found.get(migration.version):
            raise MigrationError(f"{path}: version {migration.version} is taken by {twin.path.name}")
        found[migration.version] = migration
    return [found[version] for version in sorted(found)]


def _read(module: str, path: Path) -> Migration | None:
    match = _FILE_NAME.fullmatch(path.name)
    if match is None:
        return None
    version = int(match[1])
    if not 1 <= version <= _INT64_MAX:
        raise MigrationError(f"{path}: version {version} is not between 1 and {_INT64_MAX}")
    try:
        return Migration(module, version, path, parse_migration(path.read_text(encoding="utf-8")))
    except (MigrationError, UnicodeDecodeError) as error:
        raise MigrationError(f"{path}: {error}") from None
