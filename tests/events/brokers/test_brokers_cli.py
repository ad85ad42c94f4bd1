"""erpkit events forward, dispatch --from-broker and replay --to broker, as an operator meets them."""

import json
import os
import signal
import subprocess
import sys

import pytest

from erpkit.database import Database
from erpkit.events import Message, append
from erpkit.modules import Registry
from erpkit.nats import NatsServer
from erpkit.sample.demo import Planted
from erpkit.tenants import list_tenants
from tests.command import erpkit, refused, rows_of
from tests.conftest import plant_copy
from tests.counting import wait_until
from tests.events.brokers.streams import purge_stream, stored, take


@pytest.fixture(scope="module")
def planted(shared_database: Database, registry: Registry) -> Planted:
    return plant_copy(shared_database, registry)


@pytest.fixture(autouse=True)
def environment(shared_database: Database, nats: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERPKIT_DATABASE", shared_database.conninfo)
    monkeypatch.setenv("ERPKIT_MODULES", "erpkit.sample")
    monkeypatch.setenv("ERPKIT_HOME", str(nats.home))
    monkeypatch.setenv("ERPKIT_BROKER", nats.url)


def test_the_sample_erp_works_through_nats_as_it_does_from_its_log(
    planted: Planted, shared_database: Database, nats: NatsServer
) -> None:
    """Everything was handled from the log already: what comes again through the broker has no effect."""
    started = erpkit("events", "nats", "start")
    assert started.stderr == f"NATS server was running: export ERPKIT_BROKER={nats.url}\n"
    assert rows_of(started) == [["was running", nats.url]]
    slugs = [slug for slug in planted.tenants if slug != planted.suspended]
    before = _fingerprint(shared_database)
    forwarded = erpkit("events", "forward", "--once", "--json")
    assert {row["tenant"] for row in json.loads(forwarded.stdout)} == set(slugs), forwarded.stderr
    assert sum(row["events"] for row in json.loads(forwarded.stdout)) > 100
    done = erpkit("events", "dispatch", "--from-broker", "--once")
    assert done.returncode in {0, 3}, done.stderr
    (counts,) = rows_of(done)
    assert (int(counts[0]) > 100, counts[1:]) == (True, ["0", "0", "0", "0"])
    assert _fingerprint(shared_database) == before
    again = json.loads(erpkit("events", "forward", "--once", "--json").stdout)
    assert [row["events"] for row in again] == [0] * len(slugs)


def test_events_are_replayed_to_a_subject_and_what_the_broker_drops_is_a_finding(
    planted: Planted, nats: NatsServer
) -> None:
    chosen = ("events", "replay", "--tenant", "bluebird", "--topic", "billing.*", "--to", "broker:audit")
    plan = json.loads(erpkit(*chosen, "--json").stdout)
    assert plan["target"] == {"broker": nats.url, "subject": "audit", "again": False}
    done = erpkit(*chosen, "--confirm", plan["plan"])
    assert f"{plan['events']} sent to {nats.url}, 0 that it had already" in done.stderr
    assert len(stored(nats, "bluebird", "audit", "AUDIT")) == plan["events"]
    again = erpkit(*chosen, "--confirm", plan["plan"])
    assert (again.returncode, "plan it with --again" in again.stderr) == (3, True)
    last = json.loads(erpkit("events", "replays", "--json").stdout)[0]["replay_id"]
    results = json.loads(erpkit("events", "replays", "--results", last, "--json").stdout)
    assert [(r["tenant"], r["handler"], r["state"]) for r in results] == [("bluebird", "broker:audit", "known")] * plan[
        "events"
    ]


def _fingerprint(database: Database) -> object:
    with database.connection() as connection:
        return connection.execute(
            "SELECT (SELECT count(*) FROM tenant_acme.erpkit_events), (SELECT count(*) FROM tenant_acme.erpkit_inbox), "
            "(SELECT sum(invoiced - paid) FROM tenant_acme.billing_ledger)"
        ).fetchone()


def test_the_forwarder_works_on_through_an_outage_and_ends_cleanly_at_sigterm(
    planted: Planted, shared_database: Database, nats: NatsServer
) -> None:
    with shared_database.connection() as connection:
        connection.execute("DELETE FROM tenant_acme.erpkit_checkpoints WHERE consumer_group = 'forward.nats'")
    nats.stop()
    worker = subprocess.Popen(
        [sys.executable, "-c", "from erpkit.cli import main; main()", "events", "forward", "--json"],
        env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert worker.stderr is not None
    told = ""
    while "next attempt in" not in told:
        told = worker.stderr.readline()
    assert f"broker {nats.url}" in told
    nats.start()
    wait_until(lambda: _is_forwarded(shared_database))
    worker.send_signal(signal.SIGTERM)
    out, err = worker.communicate(timeout=60)
    assert worker.returncode == 0, err
    assert sum(row["events"] for row in json.loads(out)) > 0


def test_the_forwarder_shows_in_lag_and_sends_again_from_a_point_that_was_planned_and_confirmed(
    planted: Planted, nats: NatsServer
) -> None:
    started = erpkit("events", "forward", "--once")
    assert "order: handlers get a tenant's events in the order of its log" in started.stderr
    assert {row[0] for row in rows_of(started)} <= {*planted.tenants}
    lag = json.loads(erpkit("events", "lag", "--json").stdout)["groups"]
    assert [
        (one["waiting"], one["topic"]) for one in lag if one["handler"] == "forward.nats" and one["tenant"] == "acme"
    ] == [(0, "*")]
    chosen = ("events", "forward", "--tenant", "acme", "--from", "3")
    plan = json.loads(erpkit(*chosen, "--json").stdout)
    shown = erpkit(*chosen)
    assert f"to apply it:\n    erpkit {' '.join(chosen)} --confirm {plan['plan']}" in shown.stderr
    (one,) = plan["tenants"]
    assert (one["from"], one["events"]) == (3, one["to"] - 2)
    done = erpkit(*chosen, "--confirm", plan["plan"])
    assert f"`erpkit events forward` sends {one['events']} events of 1 tenant again" in done.stderr, done.stderr
    forwarded = json.loads(erpkit("events", "forward", "--once", "--json").stdout)
    assert [(row["events"], row["refused"]) for row in forwarded if row["tenant"] == "acme"] == [(one["events"], 0)]


def test_what_a_purged_broker_has_lost_is_told_of_a_suspended_tenant_too(planted: Planted, nats: NatsServer) -> None:
    assert erpkit("events", "forward", "--once").returncode == 0
    assert erpkit("tenants", "suspend", "acme").returncode == 0
    try:
        purge_stream(nats)
        forwarded = erpkit("events", "forward", "--once")
    finally:
        assert erpkit("tenants", "activate", "acme").returncode == 0
    assert (forwarded.returncode, "! bluebird: the broker has lost" in forwarded.stderr) == (3, True)
    lag = erpkit("events", "lag", "--tenant", "acme")
    assert (lag.returncode, "has lost what was forwarded" in lag.stderr) == (3, True)
    assert erpkit("events", "forward", "--once").returncode == 0


def test_events_that_the_broker_brings_again_only_later_are_told_and_end_with_3(
    planted: Planted, shared_database: Database, nats: NatsServer
) -> None:
    """Here another consumer holds one, as one that was killed does until the broker takes it for dead."""
    erpkit("events", "dispatch", "--once")
    erpkit("events", "forward", "--once")
    assert erpkit("events", "dispatch", "--from-broker", "--once").returncode in {0, 3}  # makes the consumers, too
    with shared_database.connection() as connection:
        (acme,) = (tenant for tenant in list_tenants(connection) if tenant.slug == "acme")
    with shared_database.tenant_transaction(acme, write=True) as connection:
        append(connection, [Message("sales.OrderPlaced", {"odd": 1})])
    assert erpkit("events", "forward", "--once").returncode == 0
    take(nats, "inventory-on_order_placed", "erp.*.sales.OrderPlaced")
    done = erpkit("events", "dispatch", "--from-broker", "--once")
    assert (done.returncode, "! acme: events still wait for their handlers" in done.stderr) == (3, True), done.stderr


def test_a_tenant_whose_log_cannot_be_read_is_named_and_does_not_stop_the_others(
    planted: Planted, shared_database: Database, nats: NatsServer
) -> None:
    with shared_database.connection() as connection:
        connection.execute("ALTER TABLE tenant_acme.erpkit_events RENAME TO lost")
    try:
        done = erpkit("events", "forward", "--once", "--json")
    finally:
        with shared_database.connection() as connection:
            connection.execute("ALTER TABLE tenant_acme.lost RENAME TO erpkit_events")
    assert (done.returncode, "! acme: its event log lacks migrations" in done.stderr) == (3, True)
    slugs = {row["tenant"] for row in json.loads(done.stdout)}
    assert slugs == {slug for slug in planted.tenants if slug not in ("acme", planted.suspended)}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--from", "yesterday"), ("--from 'yesterday' is not a time: write beginning, an offset, or a time as",)),
        (("--from", ""), ("--from is empty",)),
        (("--from", "2026-01-31T08:00:00"), ("has no time zone",)),
        (("--confirm", "resend-1"), ("--from POINT",)),
    ],
)
def test_a_point_that_cannot_be_meant_is_refused(
    planted: Planted, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    refused(erpkit("events", "forward", *arguments), 2, *words)


def _is_forwarded(database: Database) -> object:
    with database.connection() as connection:
        return connection.execute(
            "SELECT 1 FROM tenant_acme.erpkit_checkpoints WHERE consumer_group = 'forward.nats'"
        ).fetchone()


@pytest.mark.parametrize(
    ("broker", "arguments", "code", "words"),
    [
        ("", ("forward", "--once"), 2, ("ERPKIT_BROKER is memory:", "nats://host:4222")),
        ("", ("replay", "--to", "broker"), 2, ("ERPKIT_BROKER is memory:",)),
        ("mqtt://x:s3cret@host", ("forward",), 2, ("ERPKIT_BROKER is not a broker",)),
        ("nats://erp:s3cret@127.0.0.1:1", ("forward", "--once"), 1, ("nats://***@127.0.0.1:1",)),
        ("nats://127.0.0.1:1", ("dispatch", "--from-broker", "--tenant", "acme"), 2, ("leave out --tenant",)),
    ],
)
def test_a_mistake_in_the_broker_is_one_line_without_a_password(
    planted: Planted, monkeypatch: pytest.MonkeyPatch, broker: str, arguments: tuple[str, ...], code: int,
    words: tuple[str, ...],
) -> None:  # fmt: skip
    monkeypatch.setenv("ERPKIT_BROKER", broker)
    done = erpkit("events", *arguments)
    told = [line for line in done.stderr.splitlines() if not line.startswith(("skipped", "order: "))]
    refused(subprocess.CompletedProcess(done.args, done.returncode, "", "\n".join(told)), code, *words)
    assert "s3cret" not in done.stdout + done.stderr
