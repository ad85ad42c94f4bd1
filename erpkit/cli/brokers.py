"""erpkit events forward, nats, and dispatch --from-broker: to the broker, and from there to the handlers."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import click
import psycopg

import erpkit
from erpkit.cli.output import as_json, print_json, print_target, say, show
from erpkit.config import Settings
from erpkit.erp import Erp
from erpkit.errors import BrokerError, DatabaseError
from erpkit.events.brokers import Broker, Forwarded
from erpkit.nats import NatsServer
from erpkit.signals import stop_at_signals
from erpkit.table import Column, Table

_EVERY = 1.0  # seconds between two looks at the logs
_PATIENCE = 30.0  # seconds, the longest wait after a fault
_IDLE = 5.0  # seconds without a delivery that end --once


@click.command("forward")
@click.option("--tenant", "slugs", multiple=True, metavar="SLUG", help="Only this tenant; may be repeated.")
@click.option("--once", is_flag=True, help="End when everything is forwarded; without it, go on until SIGTERM.")
@as_json
def forward_(slugs: tuple[str, ...], once: bool, as_json: bool) -> None:
    """Forward the logs to the broker (ERPKIT_BROKER): at least once, in order, from a checkpoint of their own."""
    with _open(quiet=as_json) as (erp, broker), stop_at_signals() as stop:
        work = _Forwarding(erp, broker, slugs, stop)
        results = work.once() if once else work.until_stopped()
    if as_json:
        print_json([{"tenant": r.tenant, "events": r.events, "offset": r.offset} for r in results])
    else:
        show(Table(_FORWARDED, results, "There was nothing to forward."))


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
    with _open(quiet=as_json) as (erp, broker), stop_at_signals() as stop:
        result = erp.events.consume(broker, stop=stop, idle=_IDLE if once else None)
    if as_json:
        print_json({"handled": result.handled, "dead": result.dead, "unknown": result.unknown})
    else:
        say(f"{result.handled} handled, {result.dead} dead, {result.unknown} for tenants that do not exist")
    return 3 if result.dead or result.unknown else 0


class _Forwarding:
    """The logs of some tenants on their way to a broker."""

    def __init__(self, erp: Erp, broker: Broker, slugs: Sequence[str], stop: threading.Event) -> None:
        self._erp = erp
        self._broker = broker
        self._slugs = slugs
        self._stop = stop
        self._results: dict[str, Forwarded] = {}

    def once(self) -> list[Forwarded]:
        """Forward all there is, unless it is to stop between two tenants."""
        for result in self._erp.events.forward(self._broker, self._slugs, self._stop):
            self._add(result)
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
                self._erp.database.renew()
            return wait
        return _EVERY

    def _add(self, result: Forwarded) -> None:
        before = self._results.get(result.tenant)
        events = result.events + (before.events if before else 0)
        self._results[result.tenant] = Forwarded(result.tenant, events, result.offset)


@contextmanager
def _open(*, quiet: bool) -> Iterator[tuple[Erp, Broker]]:
    with erpkit.open() as erp, erp.events.broker() as broker:
        print_target(erp.target, quiet=quiet)
        print_target(f"broker {broker.name}", quiet=quiet)
        yield erp, broker


_FORWARDED = (
    Column[Forwarded]("tenant", lambda one: one.tenant),
    Column[Forwarded]("forwarded", lambda one: one.events),
    Column[Forwarded]("up to offset", lambda one: one.offset),
)
