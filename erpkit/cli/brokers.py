"""erpkit events forward, nats, and dispatch --from-broker: to the broker, and from there to the handlers."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress

import click
import psycopg

from erpkit.cli.output import as_json, open_database, print_json, print_table, print_target, say
from erpkit.config import Settings
from erpkit.database import Database, Tenant
from erpkit.errors import BrokerError, DatabaseError
from erpkit.events import consumer_groups
from erpkit.events.brokers import Broker, ConsumeOptions, Forwarded, consume, forward, open_broker
from erpkit.modules import Registry, load_modules
from erpkit.nats import NatsServer
from erpkit.signals import caught_signals
from erpkit.tenants import find_tenants

_EVERY = 1.0  # seconds between two looks at the logs
_PATIENCE = 30.0  # seconds, the longest wait after a fault
_IDLE = 5.0  # seconds without a delivery that end --once


@click.command("forward")
@click.option("--tenant", "slugs", multiple=True, metavar="SLUG", help="Only this tenant; may be repeated.")
@click.option("--once", is_flag=True, help="End when everything is forwarded; without it, go on until SIGTERM.")
@as_json
def forward_(slugs: tuple[str, ...], once: bool, as_json: bool) -> None:
    """Forward the logs to the broker (ERPKIT_BROKER): at least once, in order, from a checkpoint of their own."""
    settings = Settings.from_env()
    registry = load_modules(settings)
    with _open(settings, quiet=as_json) as (database, broker), stop_at_signals() as stop:
        work = _Forwarding(database, broker, registry, slugs, stop)
        results = work.once() if once else work.until_stopped()
    if as_json:
        print_json([{"tenant": r.tenant, "events": r.events, "offset": r.offset} for r in results])
    else:
        print_table(["tenant", "forwarded", "up to offset"], [(r.tenant, r.events, r.offset) for r in results])


@click.group("nats")
def nats() -> None:
    """A NATS server of one's own, for laptops and tests; its data lie under ERPKIT_HOME."""


@nats.command()
def start() -> None:
    """Start the server; it runs until it is stopped, on this machine only."""
    server = NatsServer(Settings.from_env().home)
    started = server.start()
    say(f"NATS server {'started' if started else 'was running'}: export ERPKIT_BROKER={server.url}")


@nats.command("stop")
def stop_() -> None:
    """Stop the server; its streams stay."""
    say(f"NATS server {'stopped' if NatsServer(Settings.from_env().home).stop() else 'was not running'}")


def dispatch_from_broker(*, once: bool, as_json: bool = False) -> int:
    """Run the handlers on what comes from the broker, until SIGTERM, or with `once` until nothing comes for five seconds."""
    settings = Settings.from_env()
    registry = load_modules(settings)
    registry.check_handlers()
    with _open(settings, quiet=as_json) as (database, broker), stop_at_signals() as stop:
        options = ConsumeOptions(stop, _IDLE if once else None)
        result = consume(database, registry, broker, lambda: _list_tenants(database), options)
    if as_json:
        print_json({"handled": result.handled, "dead": result.dead, "unknown": result.unknown})
    else:
        say(f"{result.handled} handled, {result.dead} dead, {result.unknown} for tenants that do not exist")
    return 3 if result.dead or result.unknown else 0


@contextmanager
def stop_at_signals() -> Iterator[threading.Event]:
    """Set the event at SIGTERM or SIGINT, so that a worker ends between two pieces of work."""
    stop = threading.Event()
    with caught_signals(lambda _: stop.set(), signal.SIGTERM, signal.SIGINT):
        yield stop


class _Forwarding:
    """The logs of some tenants on their way to a broker."""

    def __init__(
        self, database: Database, broker: Broker, registry: Registry, slugs: Sequence[str], stop: threading.Event
    ) -> None:
        self._database = database
        self._broker = broker
        self._groups = consumer_groups(registry)
        self._slugs = slugs
        self._stop = stop
        self._results: dict[str, Forwarded] = {}

    def once(self) -> list[Forwarded]:
        """Forward all there is, unless it is to stop between two tenants."""
        self._broker.declare(self._groups)
        for tenant in _list_tenants(self._database, self._slugs):
            if tenant.is_active and not self._stop.is_set():
                self._add(forward(self._database, tenant, self._broker))
        return list(self._results.values())

    def until_stopped(self) -> list[Forwarded]:
        """Forward what comes until it is to stop; a fault of the broker or the database is told, and tried again later."""
        wait = _EVERY
        while True:
            wait = self._round(wait)
            if self._stop.wait(wait):
                return list(self._results.values())

    def _round(self, wait: float) -> float:
        """Forward all there is; return how long to wait then: after a fault, twice as long as before."""
        try:
            self.once()
        except (BrokerError, DatabaseError, psycopg.OperationalError) as error:
            wait = min(2 * wait, _PATIENCE)
            say(f"erpkit: {' '.join(str(error).split())}; next attempt in {wait:.0f} s", err=True)
            with suppress(DatabaseError):
                self._database.renew()
            return wait
        return _EVERY

    def _add(self, result: Forwarded) -> None:
        before = self._results.get(result.tenant)
        events = result.events + (before.events if before else 0)
        self._results[result.tenant] = Forwarded(result.tenant, events, result.offset)


@contextmanager
def _open(settings: Settings, *, quiet: bool) -> Iterator[tuple[Database, Broker]]:
    with closing(open_broker(settings, lasting=True)) as broker, open_database(quiet=quiet) as database:
        print_target(f"broker {broker.name}", quiet=quiet)
        yield database, broker


def _list_tenants(database: Database, slugs: Sequence[str] = ()) -> list[Tenant]:
    with database.connection() as connection:
        return find_tenants(connection, slugs)
