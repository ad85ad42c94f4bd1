"""What a module of the ERP is: a record that it declares once, under an entry point."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

from erpkit.errors import ModuleError

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class CommandHandler:
    """The one function that carries out a command: `function(command, context)`.

    `command` is a frozen dataclass with an imperative name (`PlaceOrder`); its topic is `{module}.{Name}`.
    """

    command: type
    function: Callable[..., None]


class Query(Generic[_Answer]):
    """The base of a query, a frozen dataclass that says what its answer is: `class GetBalance(Query[Balance])`."""


@dataclass(frozen=True)
class QueryHandler(Generic[_Answer]):
    """The one function that answers a query: `function(query, context)`; it reads and changes nothing.

    The types must agree: a function that returns anything but the query's answer is an error to mypy.
    """

    query: type[Query[_Answer]]
    function: Callable[..., _Answer]


@dataclass(frozen=True)
class Upcaster:
    """How an event that was written in version `from_version` becomes one of the next version: `function(payload)`.

    `function` is given a payload's fields as JSON values, in a dict of its own, and returns those of the next version; it
    reads nothing else. Register one when a field is renamed, split, removed or changes its meaning; a field that is only
    added, with a default, needs none. An event type's version is one more than its last upcaster's, and 1 without any.
    """

    event: type
    from_version: int
    function: Callable[[dict[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class Retry:
    """How often a handler is tried on an event, and what happens while event after event fails alike.

    It is tried `attempts` times in all. The pauses are random, up to a limit that starts at `pause` seconds and doubles up to
    `longest`; pauses of more than a second pass outside the transaction, and the whole handler of that tenant waits. Only errors
    of the types in `on` are tried again; any other makes a dead letter at once.

    When `pause_after` events in a row fail with the same cause, it is an outage, and makes no dead letters: the handler pauses for
    that tenant, from one second up to a minute, tries the first of them again, and goes on by itself. At each third pause it tries
    those behind the first, too, for half a minute at most: 4 * `pause_after` events, and twice as many each time. As soon as one of
    them succeeds, those before it were bad events, not an outage, and become dead letters. An error that is not in `on`, or a
    payload that does not fit, is no outage. None never pauses.
    """

    attempts: int = 3
    pause: float = 0.02
    longest: float | None = None
    on: tuple[type[Exception], ...] = (Exception,)
    pause_after: int | None = 5

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"Retry: attempts = {self.attempts} is not a number of attempts: give 1 or more")
        if self.pause < 0 or (self.longest is not None and self.longest < self.pause):
            raise ValueError(f"Retry: pause = {self.pause}, longest = {self.longest} are not seconds, the longest last")
        if self.pause_after is not None and self.pause_after < 2:
            raise ValueError(
                f"Retry: pause_after = {self.pause_after}: one event is no outage: give 2 or more, or None"
            )

    def limit(self, attempt: int) -> float:
        """Return the longest pause after the `attempt`th attempt, the first being 1, in seconds."""
        longest = max(0.2, 10 * self.pause) if self.longest is None else self.longest
        return min(longest, self.pause * 2.0 ** min(attempt - 1, 30))

    @property
    def waits_outside(self) -> bool:
        """Whether its pauses are too long to pass in a transaction."""
        return self.pause > 1


Start = Literal["beginning", "now"] | int | datetime


@dataclass(frozen=True)
class EventHandler:
    """A function that reacts to events: `function(event, context)`.

    `name` is unique in the ERP, `{module}.on_{event}` by convention, and is its consumer group. `event` is one type, or a tuple of
    several that it gets in the order of the log: so declare what keeps one table from several events. `replayable` says that
    handling an event again changes nothing but the module's own tables, and leaves them as they were: an upsert, say.
    A handler that publishes, pays or mails is not replayable unless an operator asks for it by name.

    `ordered_by` returns the key of the event's aggregate, `str(event.order_id)` say: once an event of it is a dead letter,
    later ones are parked and do not overtake it. `description` tells operators what the handler does. `timeout` is in
    seconds of one attempt; None leaves it to the database's own statement timeout.

    `effects="outside"` says that it changes something outside the database: it mails or pays. It gets one event at a time, each
    committed before the next, and `context.idempotency_key` for the service that it calls. Such a handler must say where it
    starts: `start` is "beginning" (the default of others), "now" for events from its first dispatch on, the offset of the first
    event to handle, or a time with its zone. `formerly` names the handlers whose work it continues: it takes over their
    checkpoints, dead letters and parked events. `retry` says how often it is tried, and when it pauses. `any_order` says that its
    tables come out the same in whatever order it and other handlers that write them get their events.
    """

    name: str
    event: type | tuple[type, ...]
    function: Callable[..., None]
    replayable: bool = False
    ordered_by: Callable[[Any], str] | None = None
    description: str = ""
    timeout: float | None = None
    writes: tuple[str, ...] = ()  # the tables that it keeps, where they are a projection: they can be rebuilt from zero
    effects: Literal["database", "outside"] = "database"
    start: Start | None = None
    formerly: str | tuple[str, ...] = ()
    retry: Retry = Retry()
    any_order: bool = False

    def __post_init__(self) -> None:
        if self.timeout is not None and self.timeout <= 0:
            raise ValueError(f"{self.name}: timeout = {self.timeout} is not a time: give seconds above 0, or None")
        if not self.events:
            raise ValueError(f"{self.name}: it handles no event: name one type, or several in a tuple")
        if self.effects not in ("database", "outside"):
            raise ValueError(f'{self.name}: effects = {self.effects!r}: write "database" or "outside"')
        _check_start(self.name, self.start)

    @property
    def events(self) -> tuple[type, ...]:
        """The types of events that it handles."""
        return self.event if isinstance(self.event, tuple) else (self.event,)

    @property
    def former_names(self) -> tuple[str, ...]:
        """The names of the handlers whose work it continues."""
        return (self.formerly,) if isinstance(self.formerly, str) else self.formerly

    @property
    def is_outside(self) -> bool:
        """Whether it changes something outside the database."""
        return self.effects == "outside"

    @property
    def has_side_effects(self) -> bool:
        """Whether handling an event again does more than leave its own tables as they were."""
        return self.is_outside or not self.replayable

    @property
    def starts_later(self) -> bool:
        """Whether its checkpoint must be made before its first event: it does not begin with the first one of the log."""
        return bool(self.former_names) or self.start not in (None, "beginning")


def _check_start(name: str, start: object) -> None:
    is_fine = start is None or start in ("beginning", "now") or (isinstance(start, int) and start >= 0)
    if isinstance(start, datetime) and start.tzinfo is None:
        raise ValueError(f"{name}: start = {start} has no time zone: add one, +00:00 for UTC")
    if not (is_fine or isinstance(start, datetime)):
        raise ValueError(f'{name}: start = {start!r}: write "beginning", "now", an offset, or a time with its zone')


@dataclass(frozen=True)
class Tool:
    """A function that AI assistants may call over the Model Context Protocol: `function(context, …)`.

    Its parameters after the context are typed, and so is what it returns; its docstring tells the assistant what it is for.
    It works in a transaction of the tenant that the assistant names, which only reads unless the tool says that it `writes`.
    It is called `{module}_{function}`.
    """

    function: Callable[..., Any]
    writes: bool = False

    def name_in(self, module: str) -> str:
        """Return its name, `sales_list_orders`; many assistants take no dot in it."""
        return f"{module}_{getattr(self.function, '__name__', type(self.function).__name__)}"


Lifespan = Callable[[Mapping[str, Any]], AbstractContextManager[Any]]


@runtime_checkable
class ModuleLike(Protocol):
    """What erpkit asks of a module; any object with these attributes will do."""

    @property
    def name(self) -> str:
        """Lower-case name: the namespace of its topics and of its version table."""

    @property
    def dependencies(self) -> Sequence[str]:
        """Names of the modules whose code or tables it uses; a subscription to their events needs no declaration."""

    @property
    def migrations(self) -> Path | None:
        """Folder of migration files, goose's or golang-migrate's, or None."""

    @property
    def commands(self) -> Sequence[CommandHandler]:
        """The commands that it carries out."""

    @property
    def publishes(self) -> Sequence[type]:
        """The events that it emits."""

    @property
    def subscribes(self) -> Sequence[EventHandler]:
        """The events that it reacts to, its own or other modules'."""


@dataclass(frozen=True)
class Module:
    """A module of the ERP; only the name must be given.

    `answers` are the questions that other modules and people may ask it, `upcasters` what makes its old events new ones.
    `queries` is a folder of sqlc's query files; `erpkit queries generate` writes typed functions for them beside it.
    `version_table` is the goose table that records the migrations, `goose_db_version_<name>` unless given: an ERP with all
    migrations in one folder declares one module with `version_table="goose_db_version"`. Of files in golang-migrate's format it is
    that tool's table, `schema_migrations` unless given, and `multi_statement` is its `x-multi-statement`. `tables` are the module's
    own tables, names or patterns such as `sales_*`; unless given, those that begin with its name. `package` is the Python package
    that holds its code, `shop.sales` say; unless given, the one that holds this record.

    `lifespan` is called when the application starts, with the public objects of the modules it depends on, by name: a context
    manager around the module's life, whose value is the module's own public object. `routes` is an ASGI application or a
    FastAPI router, or `package.module:name` of one, imported when it is served; `tools` is what AI assistants may call.
    """

    name: str
    dependencies: tuple[str, ...] = ()
    migrations: Path | None = None
    commands: tuple[CommandHandler, ...] = ()
    publishes: tuple[type, ...] = ()
    subscribes: tuple[EventHandler, ...] = ()
    queries: Path | None = None
    version_table: str | None = None
    answers: tuple[QueryHandler[Any], ...] = ()
    upcasters: tuple[Upcaster, ...] = ()
    tables: tuple[str, ...] | None = None
    lifespan: Lifespan | None = None
    routes: object | None = None
    tools: tuple[Tool, ...] = ()
    multi_statement: bool = False
    package: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.dependencies, str):
            raise TypeError(
                f"module {self.name}: dependencies is a tuple of names, not the string {self.dependencies!r}"
            )


def topic_of(module: str, message: type) -> str:
    """Return the topic of a message: `{module}.{Name}`."""
    return f"{module}.{message.__name__}"


def answers_of(module: ModuleLike) -> Sequence[QueryHandler[Any]]:
    """Return the queries that a module answers; one of its own making need not have the attribute."""
    return getattr(module, "answers", ())


def upcasters_of(module: ModuleLike) -> Sequence[Upcaster]:
    """Return a module's upcasters; one of its own making need not have the attribute."""
    return getattr(module, "upcasters", ())


def tables_of(module: ModuleLike) -> tuple[str, ...]:
    """Return which tables are a module's own, as patterns of `fnmatch`: `<name>_*` unless it says otherwise."""
    declared: Sequence[str] | None = getattr(module, "tables", None)
    return (f"{module.name}_*",) if declared is None else tuple(declared)


def tools_of(module: ModuleLike) -> Sequence[Tool]:
    """Return what a module offers to AI assistants; one of its own making need not have the attribute."""
    return getattr(module, "tools", ())


def is_foreign(module: ModuleLike) -> bool:
    """Tell whether a module is only described here: its handlers are written in another language, and run elsewhere."""
    return getattr(module, "is_foreign", False)


_Module = TypeVar("_Module", bound=ModuleLike)


def register(module: _Module) -> _Module:
    """Return `module`, which mypy refuses if it is incomplete: `module = register(Stock())` beside the entry point.

    Raises ModuleError where mypy was not asked. The record `erpkit.Module` does not need it: it cannot be incomplete.
    """
    check_module(module)
    return module


def check_module(candidate: object) -> ModuleLike:
    """Return `candidate` if it is a module; raise ModuleError, saying what it lacks, if it is not."""
    faults = protocol_faults(candidate)
    if faults or not isinstance(candidate, ModuleLike):
        raise ModuleError(f"{short(candidate)} is not a module ({'; '.join(faults)}): register an erpkit.Module")
    return candidate


def protocol_faults(candidate: object) -> list[str]:
    """Return what keeps an object from being a module, in words; [] for one that is."""
    if isinstance(candidate, type):
        return ["it is a class, not an object of it"]
    missing: list[str] = []
    wrong: list[str] = []
    for name, (fits, wanted) in _REQUIRED.items():
        try:
            value: object = getattr(candidate, name)
        except AttributeError:
            missing.append(name)
        except Exception as error:
            wrong.append(f"its {name} raises {type(error).__name__}")
        else:
            wrong += [] if fits(value) else [f"its {name} is {short(value)}, not {wanted}"]
    for name, (fits, wanted) in _OPTIONAL.items():
        if not fits(value := getattr(candidate, name, None)) and value is not None:
            wrong.append(f"its {name} is {short(value)}, not {wanted}")
    return [*([f"it lacks {', '.join(missing)}"] if missing else []), *wrong]


_Check = tuple[Callable[[object], bool], str]


def _several(kind: type, wanted: str) -> _Check:
    def fits(value: object) -> bool:
        return (
            isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(one, kind) for one in value)
        )

    return fits, wanted


def _one(kind: type, wanted: str) -> _Check:
    return lambda value: isinstance(value, kind), wanted


_FOLDER: _Check = (lambda value: value is None or isinstance(value, Path), "a pathlib.Path or None")
_REQUIRED: dict[str, _Check] = {
    "name": _one(str, "text"),
    "dependencies": _several(str, "a tuple of names"),
    "migrations": _FOLDER,
    "commands": _several(CommandHandler, "a tuple of erpkit.CommandHandler"),
    "publishes": _several(type, "a tuple of classes"),
    "subscribes": _several(EventHandler, "a tuple of erpkit.EventHandler"),
}
_OPTIONAL: dict[str, _Check] = {
    "queries": _FOLDER,
    "version_table": _one(str, "text"),
    "package": _one(str, "text"),
    "multi_statement": _one(bool, "True or False"),
    "answers": _several(QueryHandler, "a tuple of erpkit.QueryHandler"),
    "upcasters": _several(Upcaster, "a tuple of erpkit.Upcaster"),
    "tables": _several(str, "a tuple of names or patterns"),
    "tools": _several(Tool, "a tuple of erpkit.Tool"),
    "lifespan": (callable, "a function"),
}


def short(value: object) -> str:
    """Return what an object looks like, in at most 60 characters, even where its repr fails."""
    try:
        text = repr(value)
    except Exception:
        return f"an object of {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}…"
