"""The settings: database, modules, broker and home folder, read once from the environment."""

from __future__ import annotations

import getpass
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from erpkit.errors import UsageError

BROKERS = ("memory", "nats", "kafka", "redis", "rediss", "amqp", "amqps")

_POOLERS = ("", "session", "transaction")
_LIBPQ_TARGETS = ("PGSERVICE", "PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE")


@dataclass(frozen=True)
class Settings:
    """The settings of an installation.

    `database` is a libpq connection string or URL; "" leaves everything to libpq's `PG*` variables; None means the embedded
    server. It may contain a password, so it is never shown; in ERPKIT_DATABASE, `env:NAME` refers to another variable. `modules`
    is an entry-point group, or None for the default. `tenants_query` lists the tenants of an ERP that erpkit did not make; None
    means `public.tenants`. `broker` is the URL to which events are forwarded, `memory:` for none; it may contain a password: show
    `mask_url(broker)`. `broker_subject` is the pattern of its subjects or topics, "" for the usual
    one. The `shared_schemas` follow each tenant's on the search_path; its role may read them, and write
    to the `writable_schemas`, which are shared, too. SQL that a person types may use `allowed_functions` besides PostgreSQL's own:
    names, with or without a schema, or `schema.*`. `migration_state` names the tables in which another tool keeps its migrations:
    `table column` or `table column order`. `pooler` is the mode of a connection pooler in between, "session" or
    "transaction"; "" means that none is known. `retention` is how long events, inbox rows and replays are kept: `events=365d`.
    `thresholds` are what has to hold for the facts that runs show: `dead letters <= 10`.
    """

    database: str | None = field(default=None, repr=False)
    home: Path = Path()
    modules: str | None = None
    tenants_query: str | None = None
    broker: str = field(default="memory:", repr=False)
    broker_subject: str = ""
    shared_schemas: tuple[str, ...] = ()
    allowed_functions: tuple[str, ...] = ()
    retention: tuple[str, ...] = ()
    migration_state: tuple[str, ...] = ()
    writable_schemas: tuple[str, ...] = ()
    pooler: str = ""
    thresholds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_broker(self.broker)
        if self.pooler not in _POOLERS:
            raise UsageError(f"ERPKIT_POOLER is {self.pooler!r}: use session or transaction, the mode of the pooler")
        shared = (*self.shared_schemas, *self.writable_schemas)
        object.__setattr__(self, "shared_schemas", tuple(dict.fromkeys(shared)))

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read `ERPKIT_DATABASE` (else libpq's variables, else embedded) and `ERPKIT_` `HOME`, `MODULES`, `TENANTS_QUERY`, `BROKER`,
        `BROKER_SUBJECT`.

        `ERPKIT_SHARED_SCHEMAS`, `ERPKIT_WRITABLE_SCHEMAS`, `ERPKIT_ALLOWED_FUNCTIONS`, `ERPKIT_MIGRATION_STATE`,
        `ERPKIT_RETENTION` and `ERPKIT_THRESHOLDS` are lists separated by commas, and `ERPKIT_POOLER` is a mode; if they are not set,
        the modules.toml that ERPKIT_MODULES names may have them as `shared_schemas` and so on. Raises UsageError for an invalid broker
        or mode.
        """
        env = os.environ if environ is None else environ
        manifest = _manifest(env.get("ERPKIT_MODULES") or "")
        return cls(
            database=_look_up(env.get("ERPKIT_DATABASE") or "", env) or _libpq_database(env),
            home=expand_home("ERPKIT_HOME", env["ERPKIT_HOME"]).absolute()
            if env.get("ERPKIT_HOME")
            else _default_home(),
            modules=env.get("ERPKIT_MODULES") or None,
            tenants_query=env.get("ERPKIT_TENANTS_QUERY") or None,
            broker=env.get("ERPKIT_BROKER") or "memory:",
            broker_subject=env.get("ERPKIT_BROKER_SUBJECT") or "",
            shared_schemas=_list("shared_schemas", env, manifest),
            allowed_functions=_list("allowed_functions", env, manifest),
            writable_schemas=_list("writable_schemas", env, manifest),
            migration_state=_list("migration_state", env, manifest),
            pooler=env.get("ERPKIT_POOLER") or str(manifest.get("pooler") or ""),
            retention=_list("retention", env, manifest),
            thresholds=_list("thresholds", env, manifest),
        )

    def with_database(self, reference: str, environ: Mapping[str, str] | None = None) -> Settings:
        """Return the settings for another database: `env:NAME` refers to a variable; `service=NAME` works, too; "" is the same.

        A notebook's parameter may hold such a reference, which is no secret. Raises UsageError for a variable that is not set.
        """
        return (
            replace(self, database=_look_up(reference, os.environ if environ is None else environ))
            if reference
            else self
        )

    def replaced(self, **given: Any) -> Settings:
        """Return the settings with the values `given`, except those that are None."""
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    @property
    def is_embedded(self) -> bool:
        """Whether the embedded server is used, as no database is configured."""
        return self.database is None


def acting_user(environ: Mapping[str, str] | None = None) -> str:
    """Return the name of the acting person for the records of runs, migrations, replays and dead letters.

    Under JupyterHub, where all servers may run as one system user, it is the hub's name. Otherwise it is the login name, from
    LOGNAME, USER or the passwd entry as `getpass.getuser` reads them, or `uid 12345` for a user without a name, as in
    `docker run --user 12345`. It is information, not proof: whoever can start erpkit can set these variables.
    """
    if name := (os.environ if environ is None else environ).get("JUPYTERHUB_USER"):
        return name
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # Python 3.13 raises the first one
        return f"uid {os.getuid()}"


def expand_home(name: str, path: str) -> Path:
    """Expand `~` in the path that the variable `name` holds; raises UsageError if there is no such home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UsageError(f"{name} is {path}, and there is no such home folder: write the whole path") from None


def mask_url(url: str) -> str:
    """Return a broker's URL without user, password, token and options, so that it can be shown."""
    scheme, found, rest = url.partition("://")
    if not found:
        return f"{scheme.partition(':')[0]}:"
    place = rest.rpartition("@")[2].partition("?")[0]  # a password may contain @
    return f"{scheme}://{'***@' if '@' in rest else ''}{place}"


def _list(key: str, env: Mapping[str, str], manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a list of names from its variable, or else from modules.toml."""
    written = env.get(f"ERPKIT_{key.upper()}")
    if written is not None:
        return tuple(name.strip() for name in written.split(",") if name.strip())
    names = manifest.get(key, [])
    return tuple(name for name in names if isinstance(name, str)) if isinstance(names, list) else ()


def _manifest(path: str) -> dict[str, Any]:
    """Read a modules.toml; errors in it are reported when its modules are read, and until then it allows nothing."""
    if not path.endswith(".toml"):
        return {}
    try:
        return tomllib.loads(expand_home("ERPKIT_MODULES", path).read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}


def check_broker(url: str, source: str = "ERPKIT_BROKER") -> None:
    """Raise UsageError, naming where the URL comes from, for one that is no broker's."""
    scheme, _, rest = url.partition(":")
    if scheme not in BROKERS:
        # The value is not repeated, as it may contain a password.
        raise UsageError(
            f"{source} is not a broker's URL: use memory:, nats://host:4222, kafka://, redis:// or amqp://"
        )
    if scheme != "memory" and not mask_url(url).partition("://")[2].rpartition("@")[2].strip("/"):
        raise UsageError(f"{source} names no host: write it as {scheme}://host:port")
    if scheme == "memory" and rest:
        raise UsageError(f"{source}: memory: takes no address")


def _look_up(reference: str, env: Mapping[str, str]) -> str:
    if not reference.startswith("env:"):
        return reference
    name = reference.removeprefix("env:")
    if not env.get(name):
        raise UsageError(f"the database is {reference}, and the variable {name} is not set")
    return env[name]


def _libpq_database(env: Mapping[str, str]) -> str | None:
    return "" if any(env.get(name) for name in _LIBPQ_TARGETS) else None


def _default_home() -> Path:
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/erpkit")  # a server that runs under a user of its own cannot reach into a private home
    from platformdirs import user_data_path  # noqa: PLC0415 - only needed where ERPKIT_HOME is not set

    try:
        return user_data_path("erpkit")
    except RuntimeError:  # a user without a name and without HOME; what needs no folder must work all the same
        return Path("/nonexistent/erpkit")
