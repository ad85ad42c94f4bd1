"""Export a tenant to one file, which holds a pg_dump of its schema and a manifest, both of one snapshot.

With `--schema`, pg_dump writes the objects of that schema. It silently omits large objects, which belong to no schema; rows that are
stored in tables of other schemas; and what belongs to the database as a whole, such as publications and casts (PostgreSQL manual,
pg_dump, "--schema"). So these losses are found before an export is written. `--no-owner` and `--no-privileges` omit owners and
privileges on purpose.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from erpkit.database import Connection, Database, Tenant, check_schema_name, has_schema
from erpkit.embedded import find_binaries
from erpkit.errors import DatabaseError, UsageError, first_line
from erpkit.migrations import read_applied
from erpkit.plural import count_of
from erpkit.tenants.health import count_rows
from erpkit.tenants.locks import WAIT, name_holders
from erpkit.tenants.manifest import DUMP, MANIFEST, Manifest, partial_file, sweep_partial_files

_CHUNK = 2**20


def export_tenant(database: Database, tenant: Tenant, path: Path) -> Manifest:
    """Write a tenant's schema to the file `path`, which only its owner can read, and return its manifest.

    Dump, row counts and versions are of one snapshot. The file gets its name when it is complete; the next export removes the
    partial file of one that was killed. The manifest lists as `left_out` what belongs to the tenant and is not in the file. The
    history of its migrations stays in the database. Raises UsageError if the file exists, and if data would be lost;
    DatabaseError if pg_dump fails.
    """
    path = path.absolute()
    if path.exists():
        raise UsageError(f"{path} already exists: choose another name or move it away")
    sweep_partial_files(path.parent)
    try:
        with partial_file(path.parent) as (file, partial):
            manifest = _export(database, tenant, file)
            os.link(partial, path)  # unlike a rename, it never replaces a file
    except FileExistsError:
        raise UsageError(f"{path} already exists: choose another name or move it away") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}") from None
    return manifest


def _export(database: Database, tenant: Tenant, file: IO[bytes]) -> Manifest:
    with database.connection() as connection:
        if not has_schema(connection, check_schema_name(tenant.schema)):
            raise DatabaseError(f"tenant {tenant.slug}: there is no schema {tenant.schema}")
        try:
            with name_holders(connection, tenant, "nothing was exported"), connection.transaction():
                connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                connection.execute(sql.SQL("SET LOCAL lock_timeout TO {}").format(WAIT))
                return _export_snapshot(connection, tenant, file)
        except psycopg.Error as error:
            raise DatabaseError(f"tenant {tenant.slug} cannot be exported: {first_line(error)}") from error


def _export_snapshot(connection: Connection, tenant: Tenant, file: IO[bytes]) -> Manifest:
    losses = find_losses(connection, tenant)
    _refuse_data_loss(tenant, losses)
    row = connection.execute(sql.SQL("SELECT pg_export_snapshot()")).fetchone()
    rows = count_rows(connection, tenant.schema)
    versions = read_applied(connection, [tenant])
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # the dump is compressed already
        digest = _dump(connection, tenant, row[0] if row else "", archive)
        manifest = Manifest(
            slug=tenant.slug,
            name=tenant.name,
            schema=tenant.schema,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            server_version=connection.info.server_version,
            versions=versions.versions_in(tenant.schema),
            rows=rows,
            sha256=digest,
            left_out=tuple(map(str, losses)),
            needs=find_needs(connection, tenant),
        )
        archive.writestr(MANIFEST, manifest.to_json())
    file.flush()
    os.fsync(file.fileno())
    return manifest


def _refuse_data_loss(tenant: Tenant, losses: Sequence[Loss]) -> None:
    data = [loss for loss in losses if loss.is_data]
    if data:
        remedies = dict.fromkeys(loss.remedy for loss in data)
        raise UsageError(
            f"tenant {tenant.slug}: an export would lose {'; '.join(map(str, data))}: {'; '.join(remedies)}; "
            "nothing was exported"
        )


def _dump(connection: Connection, tenant: Tenant, snapshot: str, archive: zipfile.ZipFile) -> str:
    """Write pg_dump's output into the archive and return its sha256; a pipe makes pg_dump end when this process does."""
    program = find_program("pg_dump", connection.info.server_version)
    command: list[str | Path] = [
        program, "--format=custom", f"--schema={tenant.schema}", "--no-owner", "--no-privileges", "--no-password",
        "--encoding=UTF8", f"--lock-wait-timeout={WAIT}", f"--snapshot={snapshot}", f"--dbname={without_password(connection)}",
    ]  # fmt: skip
    digest = hashlib.sha256()
    with open_program(command, connection) as output, archive.open(DUMP, "w", force_zip64=True) as member:
        while chunk := output.read(_CHUNK):
            digest.update(chunk)
            member.write(chunk)
    return digest.hexdigest()


_SECRETS = frozenset({"password", "sslpassword", "oauth_client_secret"})


def find_program(name: str, server_version: int) -> Path:
    """Return a program that is at least as new as the server; raises DatabaseError, which names those found, without one."""
    found = {path: _major(path) for path in _candidates(name)}
    major = server_version // 10_000
    fit = [path for path, version in found.items() if version >= major]
    if not fit:
        versions = ", ".join(f"{path} ({version})" for path, version in found.items()) or "none"
        raise DatabaseError(
            f"{name} must be at least as new as the server, {major}; found {versions}: install a newer one"
        )
    return fit[0]


@contextmanager
def open_program(
    command: Sequence[str | Path], connection: Connection | None = None, file: int | None = None
) -> Iterator[IO[bytes]]:
    """Run a program and lend its output; raises DatabaseError with its message when it fails.

    It connects as `connection` does, if one is given, and inherits the open `file`. If this process is killed, the program ends
    at its next output.
    """
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
            env=_environment(connection), pass_fds=() if file is None else (file,),
        ) as process,
    ):  # fmt: skip
        assert process.stdout is not None
        try:
            yield process.stdout
        except BaseException:
            process.kill()
            raise
        code = process.wait()
        errors.seek(0)
        _check(command, code, errors.read().decode(errors="replace"))


def without_password(connection: Connection) -> str:
    """Return the connection string of `connection` without secrets, and with only the host that it reached.

    Everybody on the machine can read a command line; and only the server that exported a snapshot knows it.
    """
    known = {key: value for key, value in connection.info.get_parameters().items() if key not in _SECRETS}
    if "," in known.get("host", ""):
        known |= {"host": connection.info.host, "port": str(connection.info.port)}
        known.pop("hostaddr", None)
    return make_conninfo(**known)


def _candidates(name: str) -> list[Path]:
    installed = shutil.which(name)
    paths = [Path(installed)] if installed else []
    with suppress(DatabaseError):  # the wheel may be missing if the database is not the embedded one
        paths.append(find_binaries() / name)
    return paths


def _major(program: Path) -> int:
    shown = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"\) (\d+)", shown)
    return int(match[1]) if match else 0


def _environment(connection: Connection | None) -> dict[str, str]:
    password = connection.info.password if connection is not None else ""
    return os.environ | {"LC_ALL": "C"} | ({"PGPASSWORD": password} if password else {})


def _check(command: Sequence[str | Path], code: int, errors: str) -> None:
    if code:
        lines = (
            [line for line in errors.splitlines() if "error:" in line] or errors.splitlines() or [f"exit code {code}"]
        )
        raise DatabaseError(f"{Path(command[0]).name} failed: {lines[0].split('error: ', 1)[-1]}")


_COPY = "copy them into a column of type bytea (lo_get), and empty the one that refers to them"
_BRING_HOME = "move that table into the tenant's schema (ALTER TABLE … SET SCHEMA), or detach it"


@dataclass(frozen=True)
class Loss:
    """Something of a tenant that the export would not hold; for data, `remedy` says what to do first."""

    what: str
    remedy: str = ""

    @property
    def is_data(self) -> bool:
        """Whether rows or large objects would be lost."""
        return bool(self.remedy)

    def __str__(self) -> str:
        return self.what


# Each column, or part of one in a domain, an array or a composite type, that is an oid, with the expression that reads it.
_OID_PARTS = """
WITH RECURSIVE parts (relation, part, type, expression) AS (
  SELECT c.oid, a.attname::text, a.atttypid, format('t.%%I', a.attname)
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  WHERE c.relnamespace = to_regnamespace(quote_ident(%s)) AND c.relkind = 'r'
UNION ALL
  SELECT p.relation, inner_part.part, inner_part.type, inner_part.expression
  FROM parts p JOIN pg_type y ON y.oid = p.type CROSS JOIN LATERAL (
    SELECT p.part, y.typbasetype, format('(%%s)::%%s', p.expression, format_type(y.typbasetype, NULL)) WHERE y.typtype = 'd'
  UNION ALL
    SELECT p.part, y.typelem, format('unnest((%%s)::%%s[])', p.expression, format_type(y.typelem, NULL))
    WHERE y.typtype = 'b' AND y.typcategory = 'A'
  UNION ALL
    SELECT p.part || '.' || f.attname, f.atttypid, format('(%%s).%%I', p.expression, f.attname)
    FROM pg_attribute f WHERE y.typtype = 'c' AND f.attrelid = y.typrelid AND f.attnum > 0 AND NOT f.attisdropped
  ) AS inner_part (part, type, expression)
)
SELECT c.relname, p.part, p.expression FROM parts p JOIN pg_class c ON c.oid = p.relation
WHERE p.type = 'oid'::regtype ORDER BY 1, 2
"""

# Tables of which a partition or child is in another schema, and partitions and children of such tables.
_ROWS_ELSEWHERE = """
SELECT format('the rows of %%s, a part of table %%s', i.inhrelid::regclass, i.inhparent::regclass)
FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent JOIN pg_class c ON c.oid = i.inhrelid
WHERE p.relkind IN ('r', 'p') AND p.relnamespace <> c.relnamespace
  AND to_regnamespace(quote_ident(%(schema)s)) IN (p.relnamespace, c.relnamespace) ORDER BY 1
"""

_LEFT_OUT = """
WITH home AS (SELECT oid, nspowner FROM pg_namespace WHERE nspname = %(schema)s),
own AS (SELECT c.* FROM pg_class c JOIN home ON home.oid = c.relnamespace),
mine AS (SELECT r.oid FROM pg_roles r WHERE r.rolname IN (%(role)s, %(reader)s)),
usual AS (  -- roles that erpkit creates, and those that may create roles: an import grants them their privileges again
  SELECT oid FROM pg_roles WHERE starts_with(rolname, 'erpkit_') OR starts_with(rolname, current_database() || '.')
      OR rolsuper OR rolcreaterole OR rolname = current_user
),
objects (id, owner, acl) AS (
  SELECT 'c' || oid, relowner, relacl FROM own WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
  UNION ALL SELECT 'c' || own.oid, own.relowner, a.attacl
  FROM own JOIN pg_attribute a ON a.attrelid = own.oid WHERE a.attacl IS NOT NULL
  UNION ALL SELECT 'p' || pg_proc.oid, proowner, proacl FROM pg_proc JOIN home ON home.oid = pronamespace
  UNION ALL SELECT 't' || pg_type.oid, typowner, typacl FROM pg_type JOIN home ON home.oid = typnamespace
  UNION ALL SELECT 'n' || n.oid, n.nspowner, n.nspacl FROM pg_namespace n JOIN home USING (oid)
)
SELECT format('foreign table %%s: its rows stay on server %%I', f.ftrelid::regclass, s.srvname)
  FROM pg_foreign_table f JOIN own ON own.oid = f.ftrelid JOIN pg_foreign_server s ON s.oid = f.ftserver
UNION ALL SELECT format('publication %%I: it publishes %%s', p.pubname, coalesce(r.prrelid::regclass::text, 'the schema'))
  FROM pg_publication p LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid IN (SELECT oid FROM own)
  LEFT JOIN pg_publication_namespace n ON n.pnpubid = p.oid AND n.pnnspid IN (SELECT oid FROM home)
 WHERE r.oid IS NOT NULL OR n.oid IS NOT NULL
UNION ALL SELECT format('subscription number %%s: it writes to %%s', r.srsubid, r.srrelid::regclass)
  FROM pg_subscription_rel r JOIN own ON own.oid = r.srrelid
UNION ALL SELECT format('event trigger %%I: it calls %%s', e.evtname, p.oid::regprocedure)
  FROM pg_event_trigger e JOIN pg_proc p ON p.oid = e.evtfoid JOIN home ON home.oid = p.pronamespace
UNION ALL SELECT format('cast from %%s to %%s', format_type(k.castsource, NULL), format_type(k.casttarget, NULL))
  FROM pg_cast k LEFT JOIN pg_proc p ON p.oid = k.castfunc JOIN pg_type s ON s.oid = k.castsource JOIN pg_type t ON t.oid = k.casttarget
 WHERE (SELECT oid FROM home) IN (p.pronamespace, s.typnamespace, t.typnamespace)
UNION ALL SELECT format('extension %%I, which is installed in the schema', x.extname)
  FROM pg_extension x JOIN home ON home.oid = x.extnamespace
UNION ALL SELECT format('statistics %%I.%%I of table %%s', n.nspname, s.stxname, s.stxrelid::regclass)
  FROM pg_statistic_ext s JOIN own ON own.oid = s.stxrelid JOIN pg_namespace n ON n.oid = s.stxnamespace
 WHERE s.stxnamespace <> own.relnamespace
UNION ALL SELECT format('tablespace %%I of %%s', s.spcname, own.oid::regclass)
  FROM own JOIN pg_tablespace s ON s.oid = own.reltablespace WHERE own.relkind IN ('r', 'p', 'm', 'i', 'I') AND s.spcname <> 'pg_global'
UNION ALL SELECT format('policy %%I of %%s names role %%I', y.polname, y.polrelid::regclass, r.rolname)
  FROM pg_policy y JOIN own ON own.oid = y.polrelid CROSS JOIN unnest(y.polroles) AS p (oid) JOIN pg_roles r ON r.oid = p.oid
UNION ALL SELECT format('the owner %%I of %%s object%%s', r.rolname, count(DISTINCT objects.id),
                        CASE WHEN count(DISTINCT objects.id) > 1 THEN 's' END)
  FROM objects JOIN pg_roles r ON r.oid = objects.owner
 WHERE objects.owner <> (SELECT nspowner FROM home) AND r.oid NOT IN (SELECT oid FROM usual) GROUP BY r.rolname
UNION ALL SELECT format('the rights of %%s on %%s object%%s', coalesce(quote_ident(r.rolname), 'PUBLIC'), count(DISTINCT objects.id),
                        CASE WHEN count(DISTINCT objects.id) > 1 THEN 's' END)
  FROM objects CROSS JOIN aclexplode(objects.acl) AS a LEFT JOIN pg_roles r ON r.oid = a.grantee
 WHERE a.grantee NOT IN (SELECT oid FROM usual) AND a.grantee <> objects.owner
   AND NOT (a.grantee = 0 AND a.privilege_type IN ('EXECUTE', 'USAGE')) GROUP BY r.rolname
UNION ALL SELECT format('that role %%I may not read %%s', r.rolname, own.oid::regclass)
  FROM own CROSS JOIN pg_roles r
 WHERE r.oid IN (SELECT oid FROM mine) AND own.relkind IN ('r', 'p', 'v', 'm') AND NOT has_table_privilege(r.oid, own.oid, 'SELECT')
UNION ALL SELECT format('that PUBLIC may not execute %%s', p.oid::regprocedure)
  FROM pg_proc p JOIN home ON home.oid = p.pronamespace
 WHERE p.proacl IS NOT NULL AND NOT EXISTS (SELECT FROM aclexplode(p.proacl) AS a WHERE a.grantee = 0)
UNION ALL SELECT format('the settings of role %%I', r.rolname)
  FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole WHERE s.setrole IN (SELECT oid FROM mine)
UNION ALL SELECT format('that role %%I is a member of %%I', m.rolname, g.rolname)
  FROM pg_auth_members a JOIN pg_roles g ON g.oid = a.roleid JOIN pg_roles m ON m.oid = a.member
 WHERE (g.oid IN (SELECT oid FROM mine) AND m.oid NOT IN (SELECT oid FROM usual))
    OR (m.oid IN (SELECT oid FROM mine) AND g.oid NOT IN (SELECT oid FROM usual))
ORDER BY 1
"""

# Objects outside the schema that its objects refer to; PostgreSQL records no dependency on built-in objects.
_NEEDS = """
WITH home AS (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s),
relations AS (SELECT c.oid FROM pg_class c JOIN home ON home.oid = c.relnamespace),
own (class, object) AS (
  SELECT 'pg_class'::regclass::oid, oid FROM relations
  UNION ALL SELECT 'pg_proc'::regclass, p.oid FROM pg_proc p JOIN home ON home.oid = p.pronamespace
  UNION ALL SELECT 'pg_type'::regclass, y.oid FROM pg_type y JOIN home ON home.oid = y.typnamespace
  UNION ALL SELECT 'pg_operator'::regclass, o.oid FROM pg_operator o JOIN home ON home.oid = o.oprnamespace
  UNION ALL SELECT 'pg_constraint'::regclass, k.oid FROM pg_constraint k JOIN home ON home.oid = k.connamespace
  UNION ALL SELECT 'pg_attrdef'::regclass, d.oid FROM pg_attrdef d JOIN relations r ON r.oid = d.adrelid
  UNION ALL SELECT 'pg_rewrite'::regclass, w.oid FROM pg_rewrite w JOIN relations r ON r.oid = w.ev_class
  UNION ALL SELECT 'pg_trigger'::regclass, g.oid FROM pg_trigger g JOIN relations r ON r.oid = g.tgrelid
  UNION ALL SELECT 'pg_policy'::regclass, y.oid FROM pg_policy y JOIN relations r ON r.oid = y.polrelid
),
needed AS (
  SELECT DISTINCT d.refclassid, d.refobjid, i.schema FROM pg_depend d JOIN own ON own.class = d.classid AND own.object = d.objid
   CROSS JOIN LATERAL pg_identify_object(d.refclassid, d.refobjid, 0) AS i
   WHERE d.deptype IN ('n', 'a') AND (d.refclassid, d.refobjid) NOT IN (SELECT class, object FROM own)
     AND d.refobjid NOT IN (SELECT oid FROM home)
)
SELECT DISTINCT coalesce('extension ' || quote_ident(x.extname), pg_describe_object(n.refclassid, n.refobjid, 0))
  FROM needed n LEFT JOIN pg_depend m ON m.classid = n.refclassid AND m.objid = n.refobjid AND m.deptype = 'e'
  LEFT JOIN pg_extension x ON x.oid = m.refobjid OR (n.refclassid = 'pg_extension'::regclass AND x.oid = n.refobjid)
 WHERE n.schema IS DISTINCT FROM %(schema)s
   -- of a key, its table is named
   AND NOT EXISTS (SELECT FROM pg_index x WHERE n.refclassid = 'pg_class'::regclass AND x.indexrelid = n.refobjid)
   AND coalesce(x.extname, '') <> 'plpgsql'
   AND NOT (n.schema IS NOT DISTINCT FROM 'pg_catalog' AND x.oid IS NULL)
 ORDER BY 1
"""


def find_losses(connection: Connection, tenant: Tenant) -> tuple[Loss, ...]:
    """Return what an export of a tenant would not hold, data first.

    Data are large objects that a column of type oid refers to, also inside domains, arrays and composite types, and rows of
    partitions and children in other schemas. A number in a text or integer column may refer to a large object, too: that cannot
    be detected.
    """
    names = {"schema": tenant.schema, "role": tenant.role or "", "reader": tenant.reader or ""}
    elsewhere = connection.execute(_ROWS_ELSEWHERE, names)
    return (
        *_large_objects(connection, tenant.schema),
        *(Loss(what, _BRING_HOME) for (what,) in elsewhere.fetchall()),
        *(Loss(what) for (what,) in connection.execute(_LEFT_OUT, names)),
    )


def find_needs(connection: Connection, tenant: Tenant) -> tuple[str, ...]:
    """Return the objects outside the schema that a tenant's objects refer to: an import needs them."""
    return tuple(what for (what,) in connection.execute(_NEEDS, {"schema": tenant.schema}))


def _large_objects(connection: Connection, schema: str) -> list[Loss]:
    """Count the large objects that each column refers to; its values tell, as an oid may identify anything."""
    if connection.execute("SELECT FROM pg_largeobject_metadata LIMIT 1").fetchone() is None:
        return []
    found = []
    for table, part, expression in connection.execute(_OID_PARTS, [schema]).fetchall():
        query = sql.SQL(
            "SELECT count(DISTINCT m.oid) FROM (SELECT {} AS id FROM ONLY {} t) v JOIN pg_largeobject_metadata m ON m.oid = v.id"
        )
        row = connection.execute(query.format(sql.SQL(expression), sql.Identifier(schema, table))).fetchone()
        if row and row[0]:
            found.append(Loss(f"{count_of(row[0], 'large object')} that {table}.{part} refers to", _COPY))
    return found
