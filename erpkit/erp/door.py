"""One object from which everything else is reached by tab completion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from erpkit.cells import PLAIN
from erpkit.config import Settings, check_broker
from erpkit.database.rights import find_excess
from erpkit.database.target import check_conninfo
from erpkit.erp.installation import Installation
from erpkit.erp.part import Part
from erpkit.erp.runs import Runs
from erpkit.errors import ErpkitError, UsageError
from erpkit.finding import Finding, group_findings
from erpkit.visible import visible, visible_html

if TYPE_CHECKING:
    from erpkit.app import Application
    from erpkit.erp.events import Events
    from erpkit.erp.migrations import Migrations
    from erpkit.erp.modules import Modules, Queries
    from erpkit.erp.tenants import Tenants
    from erpkit.events import WorkerReport
    from erpkit.tenants import Across, Diagnosis


_MOST = 200  # tenants that the card looks at
_CAUSES = 5  # of findings that it names
_LOOK, _MORE = "to look at", " more: erpkit tenants inspect"
_CELL = "text-align:left;vertical-align:top;padding:.2em 1em .2em .3em;"


class Erp(Part, Installation):
    """An ERP, ready to be looked at and operated. Opening it costs nothing until a part of it is used.

    Each part is imported when it is asked for: all of them together take longer than most commands.
    """

    _inner = frozenset({
        "candidates", "compose", "database", "find", "foreign_states", "has_event_log", "is_foreign", "no_tenants",
        "one", "own", "registry", "settings",
    })  # fmt: skip

    @cached_property
    def tenants(self) -> Tenants:
        """The tenants by name, to look at or to work in."""
        from erpkit.erp.tenants import Tenants  # noqa: PLC0415

        return Tenants(self)

    @cached_property
    def events(self) -> Events:
        """The event log of each tenant: how handlers keep up, dead letters, replays."""
        from erpkit.erp.events import Events  # noqa: PLC0415

        return Events(self)

    @cached_property
    def migrations(self) -> Migrations:
        """The migrations of all tenants: who has which, and bringing them up or down."""
        from erpkit.erp.migrations import Migrations  # noqa: PLC0415

        return Migrations(self)

    @cached_property
    def modules(self) -> Modules:
        """The modules, and the check of what they declare."""
        from erpkit.erp.modules import Modules  # noqa: PLC0415

        return Modules(self)

    @cached_property
    def queries(self) -> Queries:
        """The queries of the modules: generated code, and the check against every tenant."""
        from erpkit.erp.modules import Queries  # noqa: PLC0415

        return Queries(self)

    @cached_property
    def runs(self) -> Runs:
        """The runs of notebooks that were recorded."""
        return Runs(self)

    def doctor(self, *, named: str = "") -> Diagnosis:
        """Look at the database, whatever it is, and tell what erpkit can do there; nothing is written.

        `named` is how the database was named, where it is not the configured one: the commands to paste name it again.
        """
        from erpkit.tenants.doctor import examine, quote  # noqa: PLC0415

        connect = f"export ERPKIT_DATABASE={quote(named)}" if named else ""
        settings = self.settings
        with self.database.connection() as connection:
            return examine(connection, self.target, settings.tenants_query, settings.migration_state, connect)

    def query(
        self,
        sql: str,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        tenants: Sequence[str] = (),
        limit: int | None = 10_000,
        timeout: float = 60,
        progress: Callable[[int], object] | None = None,
    ) -> Across:
        """Run one reading query in every active tenant's schema; return all rows as one DataFrame, and who failed.

        `tenants` are names or patterns (`a*`), all without one. `limit` is the most rows a tenant may give, `timeout` the seconds
        for all of them together. Raises UsageError for anything but one statement that reads.
        """
        from erpkit.tenants import across  # noqa: PLC0415

        values = dict(params) if isinstance(params, Mapping) else params
        found = self.find(tenants)
        result = across(self.database, sql, values, tenants=found, limit=limit, timeout=timeout, progress=progress)
        return replace(result, by_name=frozenset(tenants))

    def compose(
        self, *, migrate: bool = False, dispatch: bool = False, on_report: Callable[[WorkerReport], object] = str
    ) -> AbstractContextManager[Application]:
        """Start the modules for the time of the block, and lend the application that they make; see `erpkit.app.compose`."""
        from erpkit.app import compose  # noqa: PLC0415

        if dispatch:
            self.own("event log")
        return compose(self.settings, migrate=migrate, dispatch=dispatch, on_report=on_report)

    def __str__(self) -> str:
        return self._text(self._card())

    def _text(self, card: Mapping[str, str]) -> str:
        width = max(map(len, card))
        lines = [
            (name if n == 0 else "", line) for name, text in card.items() for n, line in enumerate(text.split("\n"))
        ]
        return "\n".join(f"{name:<{width}}  {visible(line)}".rstrip() for name, line in lines)

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        """Return the card with what it found, which counts for the outcome of a run that shows it, as that of every result does."""
        from erpkit.result import SCRAP, Summary  # noqa: PLC0415

        found: list[Finding] = []
        card = self._card(found)
        text, page, scrap = self._text(card), self._html(card, found), Summary("the ERP", {}, found).scrap("findings")
        return {"text/plain": text, "text/html": page, SCRAP: scrap}

    def _repr_html_(self) -> str:
        found: list[Finding] = []
        return self._html(self._card(found), found)

    def _html(self, card: Mapping[str, str], found: Sequence[Finding]) -> str:
        from erpkit.result import findings_html  # noqa: PLC0415

        cells = {name: visible_html(text) for name, text in card.items()}
        if found:
            gravest = [finding for cause in group_findings(found)[:_CAUSES] for finding in cause.findings]
            more = visible_html(card[_LOOK].rpartition("\n")[2]) if _MORE in card[_LOOK] else ""
            cells[_LOOK] = findings_html(gravest) + more
        rows = "".join(
            f'<tr><th style="{_CELL}font-weight:600">{visible_html(name)}</th>'
            f'<td style="{_CELL}white-space:pre-wrap">{cell}</td></tr>'
            for name, cell in cells.items()
        )
        return f'<table class="{PLAIN}" style="line-height:1.4">{rows}</table>'

    def _card(self, found: list[Finding] | None = None) -> dict[str, str]:
        """Return what matters at first sight, a line each, and add to `found` what needs a look.

        What cannot be read says why, and a database that is not reached once.
        """
        try:
            self.target  # noqa: B018 - connects
        except ErpkitError as error:
            return {"database": str(error), "modules": _told(self._order)}
        return {
            "database": _told(lambda: self.target),
            "login": _told(self._login),
            "tenants": _told(self._count),
            "modules": _told(self._order),
            _LOOK: _told(lambda: self._look([] if found is None else found)),
        }

    def _login(self) -> str:
        with self.database.connection() as connection:
            name, excess = find_excess(connection)
        return f"{name}: it may do more than read ({excess})" if excess else f"{name}: it may only read"

    def _look(self, found: list[Finding]) -> str:
        """Name the gravest causes of findings, with the command that helps; of many tenants the command that reads them."""
        if len(self.tenants) > _MOST:
            return f"not read of more than {_MOST} tenants: erpkit tenants inspect"
        found += self.tenants.inspect(exact=False, keep=False).findings
        causes = group_findings(found)
        lines = [f"{cause}\n    {cause.remedy}" if cause.remedy else str(cause) for cause in causes[:_CAUSES]]
        more = len(causes) - _CAUSES
        return "\n".join([*lines, *([f"and {more}{_MORE}"] if more > 0 else [])]) or "nothing"

    def _count(self) -> str:
        counts = Counter(tenant.status for tenant in self.find())
        return ", ".join(f"{count:,} {status}" for status, count in counts.items()) or f"none: {self.no_tenants}"

    def _order(self) -> str:
        return ", ".join(module.name for module in self.modules) or "none: set ERPKIT_MODULES"


def _told(read: Callable[[], str]) -> str:
    try:
        return read()
    except ErpkitError as error:
        return str(error)
    except psycopg.Error as error:
        return f"not read: {str(error).strip().splitlines()[0]}"


def _check_types(**given: object) -> None:
    """Raise UsageError for an argument that is no text; its value is not repeated, as it may hold a password."""
    for name, value in given.items():
        if value is not None and not isinstance(value, str):
            raise UsageError(f"the argument {name} is {type(value).__name__}, and has to be a text")


def open(
    database: str | None = None,
    *,
    modules: str | None = None,
    tenants_query: str | None = None,
    broker: str | None = None,
    home: Path | str | None = None,
    settings: Settings | None = None,
) -> Erp:
    """Open the ERP that the environment names, with what is given here in its place.

    `database` is a libpq connection string, or `env:NAME` for the one that a variable holds; "" is the configured one. Raises
    UsageError, which names the argument, for a setting that cannot be meant; the database is reached when it is first used.
    """
    given = {"modules": modules, "tenants_query": tenants_query, "broker": broker}
    _check_types(database=database, home=str(home) if isinstance(home, Path) else home, **given)
    found = (settings or Settings.from_env()).with_database(database or "")
    if database:
        check_conninfo(found.database or "", "the argument database")
    if broker is not None:
        check_broker(broker, "the argument broker")
    return Erp(found.replaced(**given, home=Path(home).expanduser().absolute() if home else None))
