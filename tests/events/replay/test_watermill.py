"""Watermill's own tables as a source: what is in them, who lags, and a replay that leaves them alone."""

import json
from dataclasses import dataclass
from uuid import UUID, uuid4

import psycopg
import pytest

from erpkit.database import Database, Tenant
from erpkit.errors import PlanChangedError, UsageError
from erpkit.events import (
    Context,
    HandlerChoice,
    ReplayRun,
    Selection,
    inspect_watermill,
    plan_watermill,
    read_watermill,
    replay_watermill,
)
from erpkit.modules import EventHandler, Module, Registry
from erpkit.tenants import create_tenant


@dataclass(frozen=True)
class OrderPlaced:
    number: int


@dataclass(frozen=True)
class OrderSeen:
    number: int


def _see(event: OrderPlaced, context: Context) -> None:
    if event.number == 13:
        raise ValueError("thirteen")
    context.connection.execute(
        "INSERT INTO seen (number, replay) VALUES (%s, %s)", [event.number, context.message.is_replay]
    )


def _tell(event: OrderPlaced, context: Context) -> None:
    context.publish(OrderSeen(event.number))


SHOP = Registry.of(
    [
        Module(
            "shop",
            publishes=(OrderPlaced, OrderSeen),
            subscribes=(
                EventHandler("shop.see", OrderPlaced, _see, replayable=True),
                EventHandler("shop.tell", OrderPlaced, _tell),
            ),
        )
    ]
)


@pytest.fixture
def acme(database: Database) -> Tenant:
    """A tenant without a table of erpkit's: the tables are watermill-sql's."""
    tenant = create_tenant(database, (), "acme")
    with database.connection() as connection:
        connection.execute("SET search_path TO tenant_acme")
        for topic in ("shop.OrderPlaced", "orders"):
            connection.execute(
                f'CREATE TABLE "watermill_{topic}" ("offset" bigserial, uuid varchar(36) NOT NULL, '
                "created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP, payload json, metadata json, "
                'transaction_id xid8 NOT NULL, PRIMARY KEY (transaction_id, "offset"))'
            )
            connection.execute(
                f'CREATE TABLE "watermill_offsets_{topic}" (consumer_group varchar(255) PRIMARY KEY, offset_acked bigint, '
                "last_processed_transaction_id xid8 NOT NULL)"
            )
        connection.execute("CREATE TABLE seen (id bigserial, number int, replay bool)")
    return tenant


def _publish(
    connection: psycopg.Connection[tuple[object, ...]], topic: str, *numbers: int, uuid: str = "", name: str = ""
) -> None:
    for number in numbers:
        connection.execute(
            f'INSERT INTO tenant_acme."watermill_{topic}" (uuid, payload, metadata, transaction_id) '
            "VALUES (%s, %s, %s, pg_current_xact_id())".encode(),
            [uuid or str(uuid4()), json.dumps({"number": number}), json.dumps({"name": name} if name else {})],
        )


def _seen(database: Database) -> list[object]:
    with database.connection() as connection:
        return [n for (n,) in connection.execute("SELECT number FROM tenant_acme.seen WHERE replay ORDER BY id")]


def _replay(
    database: Database, tenant: Tenant, selection: Selection, side_effects: tuple[str, ...] = (), **topics: str
) -> ReplayRun:
    plan = plan_watermill(database, SHOP, [tenant], selection, HandlerChoice((), side_effects, topics))
    return replay_watermill(database, SHOP, plan, plan.id)


def test_a_late_commit_is_read_in_its_place_and_skipped_by_nobody(database: Database, acme: Tenant) -> None:
    with psycopg.connect(database.conninfo) as slow, psycopg.connect(database.conninfo) as quick:
        slow.execute("SELECT pg_current_xact_id()")  # the older transaction
        _publish(quick, "shop.OrderPlaced", 1, 2)
        quick.commit()
        _publish(slow, "shop.OrderPlaced", 3)  # with the higher offset
        with database.tenant_transaction(acme) as connection:
            assert read_watermill(connection, "shop.OrderPlaced", Selection()) == []
        (topic,) = [t for t in inspect_watermill(database, acme) if t.topic == "shop.OrderPlaced"]
        assert (topic.events, topic.held_back) == (2, 2)
        slow.commit()
    with database.tenant_transaction(acme) as connection:
        found = read_watermill(connection, "shop.OrderPlaced", Selection())
        rest = read_watermill(connection, "shop.OrderPlaced", Selection(), found[0][0], 1)
    assert [(m.offset, m.payload["number"]) for _, m in found] == [(3, 3), (1, 1), (2, 2)]
    assert rest == found[1:2]


def test_topics_are_listed_with_the_lag_of_each_group(database: Database, acme: Tenant) -> None:
    with database.connection() as connection:
        _publish(connection, "orders", 1, 2, 3)
        connection.execute(
            "INSERT INTO tenant_acme.watermill_offsets_orders SELECT 'mail', \"offset\", transaction_id "
            "FROM tenant_acme.watermill_orders WHERE \"offset\" = 1 UNION ALL SELECT 'new', 0, '0'"
        )
    orders, placed = inspect_watermill(database, acme)
    assert (orders.topic, orders.events, [(g.name, g.lag) for g in orders.groups]) == (
        "orders",
        3,
        [("mail", 2), ("new", 3)],
    )
    assert (placed.topic, placed.events, placed.groups, placed.last_time) == ("shop.OrderPlaced", 0, (), None)


def test_a_replay_hands_them_to_handlers_and_changes_no_table_of_watermill(database: Database, acme: Tenant) -> None:
    with database.connection() as connection:
        _publish(connection, "shop.OrderPlaced", 1, 13)
        _publish(connection, "orders", 2, name="shop.OrderPlaced")
        _publish(connection, "orders", 3, name="other.Event")
        connection.execute("INSERT INTO tenant_acme.watermill_offsets_orders VALUES ('mail', 1, '5')")
    before = inspect_watermill(database, acme)
    plan = plan_watermill(database, SHOP, [acme], Selection())
    assert [(s.topic, s.handler, s.events, s.has_side_effects) for s in plan.steps] == [
        ("shop.OrderPlaced", "shop.see", 1, False), ("shop.OrderPlaced", "shop.see", 2, False),
    ]  # fmt: skip
    assert plan.left_out == {"shop.tell": "has side effects"}
    with pytest.raises(PlanChangedError, match="nothing was done"):
        replay_watermill(database, SHOP, plan, "watermill-0")
    assert _seen(database) == []
    run = replay_watermill(database, SHOP, plan, plan.id)
    assert (run.handled, run.state, [(f.handler, f.error) for f in run.failures]) == (
        2, "done", [("shop.see", "ValueError: thirteen")],
    )  # fmt: skip
    assert _seen(database) == [2, 1]
    assert inspect_watermill(database, acme) == before
    with database.connection() as connection:
        names = connection.execute(
            "SELECT relname FROM pg_class WHERE relname LIKE 'erpkit%' AND relkind = 'r'"
        ).fetchall()
    assert ("erpkit_events",) not in names


def test_a_selection_names_topics_offsets_and_uuids_and_topics_can_be_mapped(database: Database, acme: Tenant) -> None:
    with database.connection() as connection:
        _publish(connection, "orders", 1, uuid=str(UUID(int=1)))
        _publish(connection, "orders", 2, uuid="01HZXT5V0Y0000000000000000")
        _publish(connection, "orders", 3)
    _replay(database, acme, Selection("ord*", uuids=(UUID(int=1),)), orders="shop.OrderPlaced")
    _replay(database, acme, Selection(first_offset=3), orders="shop.OrderPlaced")
    _replay(database, acme, Selection("shop.*"), orders="shop.OrderPlaced")
    assert _seen(database) == [1, 3]
    with database.tenant_transaction(acme) as connection:
        (_, ulid) = read_watermill(connection, "orders", Selection())[1]
        (_, again) = read_watermill(connection, "orders", Selection())[1]
    assert ulid.uuid == again.uuid
    assert ulid.metadata["_watermill_message_uuid"] == "01HZXT5V0Y0000000000000000"


def test_several_tenants_are_planned_and_replayed_at_once(database: Database, acme: Tenant) -> None:
    bluebird = create_tenant(database, (), "bluebird")
    with database.connection() as connection:
        _publish(connection, "orders", 1, name="shop.OrderPlaced")
        for table in ("watermill_orders", "seen"):
            connection.execute(
                f"CREATE TABLE tenant_bluebird.{table} (LIKE tenant_acme.{table} INCLUDING ALL)".encode()
            )
        connection.execute("INSERT INTO tenant_bluebird.watermill_orders SELECT * FROM tenant_acme.watermill_orders")
        connection.execute(
            "GRANT ALL ON ALL SEQUENCES IN SCHEMA tenant_acme TO PUBLIC; GRANT USAGE ON SCHEMA tenant_acme TO PUBLIC"
        )
    plan = plan_watermill(database, SHOP, [acme, bluebird], Selection())
    assert [(step.tenant, step.topic, step.events) for step in plan.steps] == [
        ("acme", "shop.OrderPlaced", 1), ("bluebird", "shop.OrderPlaced", 1),
    ]  # fmt: skip
    assert replay_watermill(database, SHOP, plan, plan.id).handled == 2


def test_a_table_that_the_tenants_role_may_not_read_is_named_with_what_to_grant(
    database: Database, acme: Tenant
) -> None:
    with database.connection() as connection:
        connection.execute(
            f'REVOKE ALL ON tenant_acme.watermill_orders FROM "{acme.role}", "{acme.role}.read"'.encode()
        )
    (reason,) = plan_watermill(database, SHOP, [acme], Selection()).errors.values()
    assert "may not read tenant_acme.watermill_orders: GRANT SELECT ON ALL TABLES" in reason


def test_a_handler_that_publishes_is_refused_as_there_is_no_log(database: Database, acme: Tenant) -> None:
    with database.connection() as connection:
        _publish(connection, "shop.OrderPlaced", 1)
    with pytest.raises(UsageError, match="a handler publishes shop.OrderSeen"):
        _replay(database, acme, Selection(), ("shop.tell",))
    assert _seen(database) == []


def _make_table(database: Database, topic: str, payload: str, *, is_queue: bool = False) -> None:
    """Make a table as watermill-sql's default schema and its queue schema do, the payload's type as it is configured."""
    place = (
        '"offset" serial PRIMARY KEY, acked boolean NOT NULL DEFAULT false, created_at timestamptz NOT NULL DEFAULT now()'
        if is_queue
        else '"offset" bigserial, transaction_id xid8 NOT NULL, created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP, '
        'PRIMARY KEY (transaction_id, "offset")'
    )
    with database.connection() as connection:
        connection.execute(
            f'CREATE TABLE tenant_acme."watermill_{topic}" (uuid varchar(36) NOT NULL, payload {payload} DEFAULT NULL, '
            f"metadata json DEFAULT NULL, {place})".encode()
        )


@pytest.mark.parametrize("metadata", ["null", "{}", None])
@pytest.mark.parametrize("is_queue", [False, True])
def test_payloads_as_bytes_and_metadata_that_are_null_are_read(
    database: Database, acme: Tenant, metadata: str | None, is_queue: bool
) -> None:
    _make_table(database, "raw", "bytea", is_queue=is_queue)
    transaction = ("", "") if is_queue else (", transaction_id", ", pg_current_xact_id()")
    with database.connection() as connection:
        for payload in (b'{"number": 1}', b"no JSON", b'{"number": 2}'):
            connection.execute(
                f"INSERT INTO tenant_acme.watermill_raw (uuid, payload, metadata{transaction[0]}) "
                f"VALUES (%s, %s, %s{transaction[1]})".encode(),
                [str(uuid4()), payload, metadata],
            )
    run = _replay(database, acme, Selection("raw"), raw="shop.OrderPlaced")
    assert (run.handled, run.failed) == (2, 1)
    assert "PayloadError" in run.failures[0].error
    assert run.failures[0].error.endswith("(read from raw)")
    assert _seen(database) == [1, 2]


def test_a_table_of_a_queue_schema_is_listed_with_what_is_not_acknowledged_and_read_in_batches(
    database: Database, acme: Tenant
) -> None:
    _make_table(database, "queue", "json", is_queue=True)
    with database.connection() as connection:
        connection.execute(
            "INSERT INTO tenant_acme.watermill_queue (uuid, payload, acked) "
            "SELECT gen_random_uuid(), json_build_object('number', n), n < 2100 FROM generate_series(100, 2500) n"
        )
    (queue,) = [topic for topic in inspect_watermill(database, acme) if topic.topic == "queue"]
    assert (queue.events, queue.held_back, [(g.name, g.offset, g.lag) for g in queue.groups]) == (
        2401, 0, [("not acknowledged", 2000, 401)],
    )  # fmt: skip
    assert _replay(database, acme, Selection("queue"), queue="shop.OrderPlaced").handled == 2401
    assert _seen(database) == list(range(100, 2501))


def test_two_topics_whose_events_go_by_one_name_stay_apart(database: Database, acme: Tenant) -> None:
    """The same id, the same offset and the same name in two tables are two events, and each is told with its table."""
    uuid = str(uuid4())
    with database.connection() as connection:
        for topic, number in (("orders", 13), ("shop.OrderPlaced", 13)):
            _publish(connection, topic, number, uuid=uuid, name="shop.OrderPlaced")
    plan = plan_watermill(database, SHOP, [acme], Selection())
    assert [(step.topic, getattr(step, "source", "")) for step in plan.steps] == [
        ("shop.OrderPlaced", "orders"), ("shop.OrderPlaced", "shop.OrderPlaced"),
    ]  # fmt: skip
    assert "read from" in str(plan.step_table)
    run = replay_watermill(database, SHOP, plan, plan.id)
    assert [(f.offset, f.error) for f in run.failures] == [
        (1, "ValueError: thirteen (read from orders)"), (1, "ValueError: thirteen"),
    ]  # fmt: skip


def test_a_topic_named_like_the_offsets_of_another_is_a_topic(database: Database, acme: Tenant) -> None:
    with database.connection() as connection:
        connection.execute("DROP TABLE tenant_acme.watermill_offsets_orders")
    _make_table(database, "offsets_orders", "json")
    with database.connection() as connection:
        _publish(connection, "offsets_orders", 1)
    topics = {one.topic: (one.events, one.groups) for one in inspect_watermill(database, acme)}
    assert topics == {"offsets_orders": (1, ()), "orders": (0, ()), "shop.OrderPlaced": (0, ())}
