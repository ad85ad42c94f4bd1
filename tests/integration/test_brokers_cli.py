"""erpkit events forward and dispatch --from-broker, as an operator meets them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from erpkit.database import Database
from erpkit.nats import NatsServer
from erpkit.sample.demo import Planted
from tests.integration.counting import wait_until
from tests.integration.test_cli import erpkit, refused


@pytest.fixture(autouse=True)
def environment(database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("ERPKIT_DATABASE", database.conninfo)
    monkeypatch.setenv("ERPKIT_MODULES", "erpkit.sample")
    monkeypatch.setenv("ERPKIT_HOME", str(tmp_path))
    yield
    NatsServer(tmp_path).stop()


def test_the_sample_erp_works_through_nats_as_it_does_from_its_log(
    erp: Planted, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything was handled from the log already: what comes again through the broker has no effect."""
    started = erpkit("events", "nats", "start").stdout
    monkeypatch.setenv("ERPKIT_BROKER", started.strip().rpartition("=")[2])
    slugs = [slug for slug in erp.tenants if slug != erp.suspended]
    before = fingerprint(database)
    forwarded = erpkit("events", "forward", "--once", "--json")
    assert {row["tenant"] for row in json.loads(forwarded.stdout)} == set(slugs), forwarded.stderr
    assert sum(row["events"] for row in json.loads(forwarded.stdout)) > 100
    done = erpkit("events", "dispatch", "--from-broker", "--once")
    assert done.returncode in {0, 3}, done.stderr
    assert int(done.stdout.splitlines()[-1].split()[0]) > 100
    assert fingerprint(database) == before
    again = json.loads(erpkit("events", "forward", "--once", "--json").stdout)
    assert [row["events"] for row in again] == [0] * len(slugs)
    assert erpkit("events", "nats", "stop").stdout == "NATS server stopped\n"


def fingerprint(database: Database) -> object:
    with database.connection() as connection:
        return connection.execute(
            "SELECT (SELECT count(*) FROM tenant_acme.erpkit_events), (SELECT count(*) FROM tenant_acme.erpkit_inbox), "
            "(SELECT sum(invoiced - paid) FROM tenant_acme.billing_ledger)"
        ).fetchone()


def forwarded(database: Database) -> object:
    with database.connection() as connection:
        return connection.execute(
            "SELECT 1 FROM tenant_acme.erpkit_checkpoints WHERE consumer_group = 'forward.nats'"
        ).fetchone()


def test_the_forwarder_works_on_through_an_outage_and_ends_cleanly_at_sigterm(
    erp: Planted, database: Database, tmp_path: Path
) -> None:
    server = NatsServer(tmp_path)
    server.start()
    url = server.url
    server.stop()
    worker = subprocess.Popen(
        [sys.executable, "-c", "from erpkit.cli import main; main()", "events", "forward", "--json"],
        env=os.environ | {"ERPKIT_BROKER": url}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert worker.stderr is not None
    told = ""
    while "next attempt in" not in told:
        told = worker.stderr.readline()
    assert f"broker {url}" in told
    server.start()
    wait_until(lambda: forwarded(database))
    worker.send_signal(signal.SIGTERM)
    out, err = worker.communicate(timeout=30)
    assert worker.returncode == 0, err
    assert sum(row["events"] for row in json.loads(out)) > 0


def test_a_mistake_in_the_broker_is_one_line_without_a_password(erp: Planted) -> None:
    refused(erpkit("events", "forward", "--once"), 2, "ERPKIT_BROKER is memory:", "nats://host:4222")
    refused(erpkit("events", "forward", ERPKIT_BROKER="mqtt://x:s3cret@host"), 2, "ERPKIT_BROKER is no broker")
    done = erpkit("events", "forward", "--once", ERPKIT_BROKER="nats://erp:s3cret@127.0.0.1:1")
    assert done.returncode == 1
    assert "nats://***@127.0.0.1:1" in done.stderr
    assert "s3cret" not in done.stdout + done.stderr
    both = erpkit("events", "dispatch", "--from-broker", "--tenant", "acme", ERPKIT_BROKER="nats://127.0.0.1:1")
    refused(both, 2, "leave out --tenant")
