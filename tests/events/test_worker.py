"""The worker: woken, fair, stopped, killed, hung, cut off; each event's effect is there exactly once."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from erpkit.database import Connection, Database, Tenant
from erpkit.embedded import EmbeddedServer
from erpkit.events import (
    Consumer,
    ConsumerGroup,
    Context,
    Message,
    Watchdog,
    Worker,
    WorkerOptions,
    WorkerReport,
    append,
    dispatch,
    list_dead_letters,
    read_events,
)
from erpkit.events.checkpoints import Backlog, mark_in_flight, move_checkpoint, read_backlog, read_batch, read_waiting
from erpkit.modules import EventHandler, Module, Registry
from erpkit.tenants import list_tenants, set_status
from tests.benchmarks.kill_dispatcher import kill_often
from tests.conftest import SCRATCH
from tests.events.noting import append_numbers, effects, make_tenant, until
from tests.processes import start


@dataclass(frozen=True)
class Noted:
    number: int


def _note(event: Noted, context: Context) -> None:
    """Write the number down; hang on -1, end the process on -2."""
    context.connection.execute("INSERT INTO effects (number) VALUES (%s)", [event.number])
    while event.number == -1:
        time.sleep(60)
    if event.number == -2:
        os._exit(9)


def _erp(function: Callable[..., None] = _note) -> Registry:
    return Registry.of(
        [Module("notes", publishes=(Noted,), subscribes=(EventHandler("notes.on_noted", Noted, function),))]
    )


@pytest.fixture
def acme(database: Database) -> Tenant:
    return make_tenant(database, "acme")


@contextmanager
def _running(
    database: Database, registry: Registry | None = None, poll: float = 60, batch: int = 500
) -> Iterator[list[WorkerReport]]:
    """Run a worker in a thread until the block ends; yield the reports that it makes."""
    reports: list[WorkerReport] = []
    worker = Worker(database, registry or _erp(), list_tenants, reports.append, WorkerOptions(poll=poll, batch=batch))
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        until(lambda: reports)
        yield reports
    finally:
        worker.stop()
        thread.join()


def _news(reports: list[WorkerReport]) -> list[str]:
    return [news for report in reports for news in report.news]


def test_a_worker_is_woken_by_an_append(database: Database, acme: Tenant) -> None:
    with _running(database, poll=3600):
        for number in (1, 2):  # it has nothing left to do in between
            append_numbers(database, acme, number)
            until(lambda number=number: number in effects(database, acme))  # type: ignore[misc]


def test_no_append_is_missed_however_it_meets_the_end_of_a_workers_attention(database: Database, acme: Tenant) -> None:
    """The pauses lie around the half second after which a worker lets go of a tenant; it polls too seldom to help."""
    tenants = [acme, make_tenant(database, "bluebird")]
    dice = random.Random(5)

    def work(tenant: Tenant, pauses: list[float]) -> None:
        for number, pause in enumerate(pauses):
            time.sleep(pause)
            append_numbers(database, tenant, number)

    plans = [[dice.choice([0, 0.01, dice.uniform(0.45, 0.55)]) for _ in range(12)] for _ in tenants]
    with _running(database), _running(database), ThreadPoolExecutor(len(tenants)) as threads:
        list(threads.map(work, tenants, plans))
        until(lambda: all(len(effects(database, tenant)) == 12 for tenant in tenants))
    assert all(effects(database, tenant) == list(range(12)) for tenant in tenants)


def test_a_worker_finds_what_nobody_announced(database: Database, acme: Tenant) -> None:
    with _running(database, poll=0.2):
        with database.tenant_transaction(acme, write=True) as connection:
            connection.execute(
                "INSERT INTO erpkit_events (uuid, topic, payload) VALUES (gen_random_uuid(), 'notes.Noted', '{\"number\": 7}')"
            )
        until(lambda: effects(database, acme) == [7])


def test_a_busy_tenant_does_not_hold_up_the_others(database: Database, acme: Tenant) -> None:
    bluebird = make_tenant(database, "bluebird")
    order: list[str] = []
    append_numbers(database, acme, *range(100))
    append_numbers(database, bluebird, *range(10))
    with _running(database, _erp(lambda _, context: order.append(context.tenant.slug)), batch=5):
        until(lambda: len(order) == 110)
    assert order[:20] == (["acme"] * 5 + ["bluebird"] * 5) * 2


def test_a_worker_that_is_stopped_finishes_the_batch_in_flight_and_no_other(database: Database, acme: Tenant) -> None:
    def stop(event: Noted, context: Context) -> None:
        _note(event, context)
        worker.stop()

    append_numbers(database, acme, *range(20))
    worker = Worker(database, _erp(stop), list_tenants, str, WorkerOptions(batch=5))
    assert worker.run().handled == 5
    assert effects(database, acme) == [0, 1, 2, 3, 4]
    assert dispatch(database, acme, _erp()).handled == 15
    assert effects(database, acme) == list(range(20))


def test_the_command_stops_on_sigterm_with_exit_code_0_and_keeps_a_health_file(
    database: Database, acme: Tenant, tmp_path: Path
) -> None:
    health = tmp_path / "health.json"
    environment = os.environ | {"ERPKIT_DATABASE": database.conninfo, "ERPKIT_MODULES": "erpkit.sample"}
    command = [sys.executable, "-c", "from erpkit.cli import main; main()", "events", "dispatch"]
    worker = subprocess.Popen(
        [*command, "--health-file", str(health), "--every", "0.2"],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until(health.exists)
    figures = json.loads(health.read_text())
    worker.send_signal(signal.SIGTERM)
    _, told = worker.communicate(timeout=60)
    assert (worker.returncode, told.splitlines()[-1]) == (0, "stopped: 0 handled, 0 dead letters")
    assert (figures["handled"], figures["waiting"], figures["groups"]) == (0, 0, [])
    assert not health.exists()  # what is left of it would look alive


@pytest.mark.parametrize(("poison", "code"), [(-1, 1), (-2, 9)])
def test_an_event_that_hangs_or_ends_the_process_becomes_a_dead_letter_after_three_attempts(
    database: Database, acme: Tenant, poison: int, code: int, tmp_path: Path
) -> None:
    append_numbers(database, acme, 1, 2, poison, 4, 5)
    limit = 1 if poison == -1 else 60  # a busy machine may take a while over a good event, too
    codes = [_dispatch_in_process(database, acme, limit, tmp_path / str(run)) for run in range(5)]
    assert codes == [code] * 4 + [0]  # once in a batch, three times alone
    if poison == -1:
        assert (tmp_path / "0").read_text().splitlines()[-1] == (
            "erpkit: notes.on_noted has had the event at offset 3 of tenant acme in flight for more than 1 s: this process ends"
        )
    assert effects(database, acme) == [1, 2, 4, 5]
    with database.connection() as connection:
        (letter,) = list_dead_letters(connection, [acme])
    assert (letter.offset, letter.attempts) == (3, 3)
    assert letter.error == "CrashError: its dispatcher ended 3 times with it in flight"


def _dispatch_in_process(database: Database, tenant: Tenant, limit: float, stderr: Path) -> int | None:
    process = start(_dispatch, database.conninfo, tenant, limit, stderr=stderr)
    process.join(90)
    return process.exitcode


def _dispatch(conninfo: str, tenant: Tenant, limit: float) -> None:
    with Watchdog(limit) as watch:
        dispatch(Database(conninfo, "x"), tenant, _erp(), watch=watch)


def test_what_is_in_flight_is_marked_for_all_to_see_while_the_group_stays_locked(
    database: Database, acme: Tenant
) -> None:
    append_numbers(database, acme, 1, 2)
    erp = _erp()
    consumer = Consumer(acme, erp, erp.event_handlers["notes.on_noted"])
    with database.tenant_transaction(acme, write=True) as connection:
        assert read_batch(connection, consumer.group, 10)[1] is not None
        mark_in_flight(connection, consumer, 2, 0, 30)
        scope = connection.execute("SELECT current_schema(), current_user, current_setting('statement_timeout')")
        assert scope.fetchone() == (acme.schema, acme.role, "30s")
        with database.tenant_transaction(acme) as other:
            assert read_batch(other, consumer.group, 10)[1] is None
            assert other.execute("SELECT in_hand FROM erpkit_checkpoints").fetchone() == (2,)
        connection.execute("INSERT INTO effects (number) VALUES (1)")
    with database.tenant_transaction(acme) as other:
        assert read_batch(other, consumer.group, 10)[1] is not None  # the session keeps nothing
    assert effects(database, acme) == [1]


def test_a_dispatcher_that_was_killed_once_makes_no_dead_letter_of_a_good_event(
    database: Database, acme: Tenant
) -> None:
    append_numbers(database, acme, 1, 2, 3)
    with (
        database.connection() as connection
    ):  # what one leaves that was killed with three in hand, twice on the first alone
        connection.execute(
            "INSERT INTO tenant_acme.erpkit_checkpoints VALUES ('notes.on_noted', 0, now(), 3, 2, now())"
        )
    result = dispatch(database, acme, _erp())
    assert (result.handled, result.dead, effects(database, acme)) == (3, 0, [1, 2, 3])
    append_numbers(database, acme, 4, 5)
    assert dispatch(database, acme, _erp()).handled == 2


def test_two_workers_share_the_tenants_and_handle_each_event_once(database: Database, acme: Tenant) -> None:
    tenants = [acme, make_tenant(database, "bluebird"), make_tenant(database, "cobalt")]
    with _running(database, poll=0.2, batch=7), _running(database, poll=0.2, batch=7):
        for first in range(0, 100, 20):
            for tenant in tenants:
                append_numbers(database, tenant, *range(first, first + 20))
        until(lambda: all(len(effects(database, tenant)) >= 100 for tenant in tenants))
    assert all(effects(database, tenant) == list(range(100)) for tenant in tenants)


def test_a_suspended_tenant_that_is_dropped_is_not_said_to_be_served_again(database: Database, acme: Tenant) -> None:
    make_tenant(database, "bluebird")
    with database.connection() as connection:
        set_status(connection, "bluebird", "suspended")
    with _running(database, poll=0.2) as reports:
        until(lambda: "skips bluebird: suspended" in _news(reports))
        with database.connection() as connection:
            connection.execute("DELETE FROM public.tenants WHERE slug = 'bluebird'")
            set_status(connection, "acme", "suspended")
        until(lambda: "skips acme: suspended" in _news(reports))
    assert "serves bluebird again" not in _news(reports)


def test_a_suspended_tenant_is_left_alone_until_it_is_active_again(database: Database, acme: Tenant) -> None:
    with database.connection() as connection:
        set_status(connection, "acme", "suspended")
    append_numbers(database, acme, 1)
    with _running(database, poll=0.2) as reports:
        until(lambda: "skips acme: suspended" in _news(reports))
        assert effects(database, acme) == []
        with database.connection() as connection:
            set_status(connection, "acme", "active")
        until(lambda: effects(database, acme) == [1])
    assert "serves acme again" in _news(reports)


def test_a_tenant_that_cannot_be_served_is_named_and_holds_up_no_other(database: Database, acme: Tenant) -> None:
    bluebird = make_tenant(database, "bluebird")
    for tenant in (acme, bluebird):
        append_numbers(database, tenant, 1)
    with database.connection() as connection:
        connection.execute("ALTER TABLE tenant_acme.erpkit_checkpoints DROP COLUMN in_hand")  # as if not migrated yet
    with _running(database, poll=0.2) as reports:
        until(lambda: effects(database, bluebird) == [1])
        until(lambda: any(report.failing for report in reports))
        with database.connection() as connection:
            connection.execute("ALTER TABLE tenant_acme.erpkit_checkpoints ADD COLUMN in_hand bigint")
        until(lambda: effects(database, acme) == [1])
    assert any(news.startswith("acme: notes.on_noted cannot be served:") for news in _news(reports))


def test_a_worker_survives_a_restart_of_the_server() -> None:
    home = Path(tempfile.mkdtemp(prefix="erpkit-restart-", dir=SCRATCH))
    home.chmod(0o755)
    server = EmbeddedServer(home)
    server.start()
    try:
        with Database(server.url(), "embedded") as database:
            tenant = make_tenant(database, "acme")
            append_numbers(database, tenant, 1)
            with _running(database) as reports:
                until(lambda: effects(database, tenant) == [1])
                server.stop()
                until(lambda: any(news.startswith("lost the database") for news in _news(reports)))
                server.start()
                until(lambda: "has reconnected to the database" in _news(reports))
                database.renew()
                append_numbers(database, tenant, 2)
                until(lambda: effects(database, tenant) == [1, 2])
    finally:
        server.stop()
        subprocess.run(["rm", "-rf", home], check=True)


def test_dispatchers_that_are_killed_leave_each_effect_exactly_once_and_in_order(database: Database) -> None:
    kill_often(database, events=1200, kills=8)


def test_a_large_append_leaves_out_what_is_in_the_log_already(database: Database, acme: Tenant) -> None:
    """COPY knows no ON CONFLICT; a handler that publishes anew derives the same ids."""
    messages = [Message("notes.Noted", {"number": number, "text": "a\\b\t\n'ü"}) for number in range(30)]
    for some in (messages[:20], [*messages, messages[25]], messages):
        with database.tenant_transaction(acme, write=True) as connection:
            append(connection, some)
    with database.tenant_transaction(acme) as connection:
        stored = read_events(connection, "notes.Noted", 0, 100)
    assert [(m.uuid, m.payload) for m in stored] == [(m.uuid, m.payload) for m in messages]


def test_an_append_that_is_rolled_back_wakes_nobody_and_leaves_nothing(database: Database, acme: Tenant) -> None:
    def heard(connection: Connection) -> list[str]:
        return [notify.payload for notify in connection.notifies(timeout=0.2)]

    with psycopg.connect(database.conninfo, autocommit=True) as listener:
        listener.execute("LISTEN erpkit_events")
        with pytest.raises(ZeroDivisionError), database.tenant_transaction(acme, write=True) as connection:
            append(connection, [Message("notes.Noted", {"number": 1})])
            raise ZeroDivisionError
        assert heard(listener) == []
        append_numbers(database, acme, *range(50))
        assert heard(listener) == ["tenant_acme"]


def _waiting(backlog: Mapping[str, Backlog]) -> dict[str, int]:
    return {handler: one.events for handler, one in backlog.items()}


def test_a_group_of_several_topics_reads_them_in_the_order_of_the_log(database: Database, acme: Tenant) -> None:
    append_numbers(database, acme, 1, 2)
    with database.tenant_transaction(acme, write=True) as connection:
        append(connection, [Message("notes.Torn", {"number": 3})])
    append_numbers(database, acme, 4)
    group = ConsumerGroup("notes.all", ("notes.Noted", "notes.Torn"))
    with database.tenant_transaction(acme, write=True) as connection:
        _, messages = read_batch(connection, group, 3)
        assert messages is not None
        assert [message.payload["number"] for message in messages] == [1, 2, 3]
        assert _waiting(read_backlog(connection, [acme], [group])["acme"]) == {"notes.all": 4}
        move_checkpoint(connection, group, 3)
        _, messages = read_batch(connection, group, 3)
        assert messages is not None
        assert [message.payload["number"] for message in messages] == [4]
    groups = [group, ConsumerGroup("notes.torn", ("notes.Torn",))]
    with database.connection() as connection:
        assert read_waiting(connection, [acme], groups) == [(acme, "notes.all"), (acme, "notes.torn")]
        backlog = read_backlog(connection, [acme], groups)["acme"]
        assert _waiting(backlog) == {"notes.all": 1, "notes.torn": 1}
        assert all(0 <= one.seconds < 60 for one in backlog.values())
