"""The application as its clients meet it: over HTTP by httpx, and by the MCP client of the official SDK."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

import anyio
import httpx
import pytest
import uvicorn
from fastapi import APIRouter, HTTPException, Response
from mcp import Client, StdioServerParameters, stdio_client

from erpkit.app import Application, Call
from erpkit.app.http import TenantCall, build, listen
from erpkit.app.tools import build as build_tools
from erpkit.database import Database, Tenant
from erpkit.errors import ErpkitError, ModuleError, UsageError
from erpkit.events import consumer_groups, list_events, read_lag
from erpkit.migrations import Migration
from erpkit.modules import Module, Registry, Tool
from erpkit.sample.data import Size, do_business
from erpkit.sample.sales.messages import CustomerRegistered, RegisterCustomer
from erpkit.tenants import create_tenant, ensure_template, set_status

router = APIRouter()


def register(call: Call) -> None:
    call.send(RegisterCustomer(uuid4(), "Rogue", "AT"))


@router.post("/raises")
def raises(call: TenantCall) -> None:
    register(call)
    raise ZeroDivisionError("a secret of the server")


@router.post("/refuses")
def refuses(call: TenantCall) -> None:
    register(call)
    raise ErpkitError("the customer owes too much\nand more")


@router.post("/answers/{status}")
def answers(call: TenantCall, status: int) -> Response:
    register(call)
    return Response(f"{status}", status)


@router.post("/forbids")
def forbids(call: TenantCall) -> None:
    register(call)
    raise HTTPException(418, "short and stout")


@router.post("/twins")
def twins(call: TenantCall) -> str:
    """Breaks a constraint that is looked at when the transaction commits."""
    register(call)
    register(call)
    return "done"


@router.get("/writes")
def writes(call: TenantCall) -> None:
    call.connection.execute("DELETE FROM sales_orders")


@router.get("/naps")
def naps(call: TenantCall) -> None:
    call.connection.execute("SELECT pg_sleep(0.01)")


@router.get("/publishes")
def publishes(call: TenantCall) -> None:
    call.publish(CustomerRegistered(uuid4(), "Ghost"))


@router.get("/elsewhere")
def elsewhere(call: TenantCall) -> None:
    call.connection.execute("SELECT * FROM public.tenants")


@router.post("/query")
@router.get("/query")
def query(call: TenantCall, sql: str) -> None:
    call.connection.execute(sql.encode())


@router.post("/echo")
async def echo(call: TenantCall, body: dict[str, Any]) -> list[Any]:
    return [call.tenant.slug, body, call.public["rogue"]]


async def plain(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application that knows nothing of FastAPI."""
    call: Call = scope["erpkit.call"]
    count = call.connection.execute("SELECT count(*) FROM sales_customers").fetchone()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": f"{count} at {scope['path']}".encode()})


ROGUE = Module("rogue", ("sales",), routes=router)
PLAIN = Module("plain", ("sales",), routes=plain)


class Erp:
    """A server with the sample ERP and two more modules, and a client of it."""

    def __init__(self, database: Database, registry: Registry, tenant: Tenant, client: httpx.Client) -> None:
        self.database = database
        self.registry = registry
        self.tenant = tenant
        self.client = client

    def ask(self, method: str, path: str, tenant: str | None = "acme", **options: Any) -> httpx.Response:
        headers = {"X-Tenant": tenant} if tenant is not None else {}
        return self.client.request(method, path, headers=headers | options.pop("headers", {}), **options)

    def customers(self) -> int:
        return self.count("sales_customers")

    def count(self, table: str) -> int:
        with self.database.tenant_transaction(self.tenant) as connection:
            found = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        assert found is not None
        return int(found[0])

    def waiting(self) -> int:
        """How many events wait for a handler, or are handled at the moment."""
        with self.database.connection() as connection:
            groups = read_lag(connection, [self.tenant], consumer_groups(self.registry))
        return sum(group.waiting for group in groups)

    def newest_events(self, number: int) -> list[str]:
        with self.database.tenant_transaction(self.tenant) as connection:
            return [event.topic for event in list_events(connection, number)]


@pytest.fixture(scope="module")
def erp(shared_database: Database, registry: Registry, migrations: Sequence[Migration]) -> Iterator[Erp]:
    with shared_database.connection() as connection:
        ensure_template(connection)
    tenant = create_tenant(shared_database, tuple(migrations), "acme")
    do_business(shared_database, registry, tenant, 1, Size(products=3, customers=2, orders=3), date(2026, 10, 31))
    create_tenant(shared_database, tuple(migrations), "closed_shop")
    with shared_database.connection() as connection:
        connection.execute(TRAPS)
        set_status(connection, "closed_shop", "suspended")
        connection.execute("ALTER TABLE tenant_acme.sales_customers ADD UNIQUE (name) DEFERRABLE INITIALLY DEFERRED")
    both = Registry.of([*registry.modules, ROGUE, PLAIN])
    # Two connections only: requests have to take turns.
    with Database(shared_database.conninfo, "test", max_connections=2) as database, listen("127.0.0.1", 0) as listening:
        application = Application(database, both, {"rogue": "its public object"})
        config = uvicorn.Config(build(application, "erp.test"), log_config=None)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        with httpx.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=60) as client:
            yield Erp(shared_database, both, tenant, client)
        server.should_exit = True
        thread.join()


TRAPS = """
CREATE FUNCTION tenant_acme.die() RETURNS boolean LANGUAGE sql SECURITY DEFINER AS 'SELECT pg_terminate_backend(pg_backend_pid())';
CREATE FUNCTION tenant_acme.die_too() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM tenant_acme.die(); RETURN NULL; END';
CREATE TABLE tenant_acme.tombs (n integer);
CREATE CONSTRAINT TRIGGER dies AFTER INSERT ON tenant_acme.tombs DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW EXECUTE FUNCTION tenant_acme.die_too();
GRANT INSERT ON tenant_acme.tombs TO PUBLIC;
CREATE TYPE tenant_closed_shop.secret_kind AS ENUM ('one');
CREATE SCHEMA shared_things CREATE TABLE rates (n integer CONSTRAINT secret_rates UNIQUE);
GRANT USAGE ON SCHEMA shared_things TO PUBLIC;
GRANT INSERT ON shared_things.rates TO PUBLIC;
CREATE FUNCTION tenant_acme.kind() RETURNS text LANGUAGE sql SECURITY DEFINER AS
  'SELECT ''two''::text::tenant_closed_shop.secret_kind::text';
"""
ID = re.compile(r"error [0-9a-f]{12}")


FORBIDDEN = "is not allowed to use what it asks the database for"


def order(sku: str = "A-001", **changes: Any) -> dict[str, Any]:
    return {
        "order_id": str(uuid4()),
        "customer_id": str(UUID(int=1)),
        "placed_on": "2026-10-01",
        "lines": [{"sku": sku, "quantity": 2}],
    } | changes


def test_orders_and_stock_are_read_over_http(erp: Erp) -> None:
    orders = erp.ask("GET", "/sales/orders?limit=2").json()
    assert [set(one) for one in orders] == [{"order_id", "customer", "placed_on", "currency", "total"}] * 2
    assert [row["sku"] for row in erp.ask("GET", "/inventory/stock").json()] == ["A-001", "B-002", "C-003"]


def test_an_order_that_is_placed_and_its_event_become_true_together(erp: Erp) -> None:
    sent = order()
    assert (answer := erp.ask("POST", "/sales/orders", json=sent)).status_code == 201
    assert answer.json() == sent["order_id"]
    assert erp.newest_events(1) == ["sales.OrderPlaced"]
    again = erp.ask("POST", "/sales/orders", json=sent)
    assert (again.status_code, list(again.json())) == (409, ["error"])
    refused = erp.ask("POST", "/sales/orders", json=order(sku="Z-9"))
    assert (refused.status_code, "no product Z-9" in refused.json()["error"]) == (422, True)


def test_the_tenant_is_named_by_header_or_host(erp: Erp) -> None:
    for headers in ({"X-Tenant": "acme"}, {"Host": "acme.erp.test"}, {"Host": "ACME.erp.test:80", "X-Tenant": "acme"}):
        assert erp.ask("GET", "/sales/orders", tenant=None, headers=headers).status_code == 200


REFUSED = {
    "none": ({}, 400, "the request names no tenant: send the header X-Tenant, or call <tenant>.erp.test"),
    "another host": ({"Host": "acme.evil.test"}, 400, "the request names no tenant"),
    "two": ({"Host": "acme.erp.test", "X-Tenant": "closed_shop"}, 400, "names more than one tenant: acme, closed_shop"),
    "unknown": ({"X-Tenant": "acne"}, 404, "there is no tenant 'acne'"),
    "hostile": ({"X-Tenant": 'x"; drop schema acme; --'}, 404, "there is no tenant"),
    "template": ({"X-Tenant": "_template"}, 404, "there is no tenant"),
    "suspended": ({"Host": "closed-shop.erp.test"}, 403, "tenant closed_shop is suspended"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_request_without_a_tenant_that_is_served_is_refused_in_one_line(erp: Erp, case: str) -> None:
    headers, status, said = REFUSED[case]
    for method in ("GET", "POST"):
        answer = erp.ask(method, "/sales/orders", tenant=None, headers=headers)
        assert (answer.status_code, said in answer.json()["error"]) == (status, True)
        assert len(answer.text.splitlines()) == 1


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/rogue/raises", 500, "POST /rogue/raises failed (error ID in the server's log)"),
        ("/rogue/refuses", 422, "the customer owes too much"),
        ("/rogue/answers/500", 500, None),
        ("/rogue/answers/404", 404, None),
        ("/rogue/forbids", 418, "short and stout"),
        ("/rogue/twins", 409, 'duplicate key value violates unique constraint "sales_customers_name_key"'),
    ],
)
def test_what_does_not_end_well_leaves_nothing_behind(erp: Erp, path: str, status: int, said: str | None) -> None:
    before = erp.customers(), erp.count("erpkit_events")
    answer = erp.ask("POST", path)
    assert answer.status_code == status
    assert said is None or ID.sub("error ID", answer.json()["error"]) == said
    assert (erp.customers(), erp.count("erpkit_events")) == before


@pytest.mark.parametrize("status", [200, 303])
def test_what_ends_well_is_committed(erp: Erp, status: int) -> None:
    with erp.database.tenant_transaction(erp.tenant, write=True) as connection:
        connection.execute("DELETE FROM sales_customers WHERE name = 'Rogue'")
    before = erp.customers()
    assert erp.ask("POST", f"/rogue/answers/{status}", follow_redirects=False).status_code == status
    assert erp.customers() == before + 1
    assert erp.newest_events(1) == ["sales.CustomerRegistered"]


def test_a_get_changes_nothing_and_sees_no_other_schema(erp: Erp) -> None:
    orders = erp.count("sales_orders")
    for path, said in (
        ("/rogue/writes", "cannot execute DELETE in a read-only transaction"),
        ("/rogue/publishes", "GET /rogue/publishes: a query or a tool that only reads cannot publish events"),
        ("/rogue/elsewhere", f"GET /rogue/elsewhere {FORBIDDEN} (error ID in the server's log)"),
    ):
        answer = erp.ask("GET", path)
        assert (answer.status_code in (422, 500), ID.sub("error ID", answer.json()["error"])) == (True, said)
    assert erp.count("sales_orders") == orders


def test_an_unexpected_error_is_in_the_log_under_the_id_that_the_client_gets(
    erp: Erp, caplog: pytest.LogCaptureFixture
) -> None:
    told = ID.search(erp.ask("POST", "/rogue/raises").json()["error"])
    (record,) = [one for one in caplog.records if one.name == "erpkit.app"]
    assert told is not None
    assert record.getMessage() == f"{told[0]}: POST /rogue/raises: a secret of the server"
    assert record.exc_info is not None


OUTSIDE = {
    "another tenant's table": "SELECT * FROM tenant_closed_shop.sales_orders",
    "a table that is nowhere": "SELECT * FROM tenant_closed_shop_2.sales_orders",
    "a type of another tenant": "SELECT kind()",
    "a constraint of a shared table": "INSERT INTO shared_things.rates VALUES (1), (1)",
    "a table of the server": "SELECT * FROM public.tenants",
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_no_answer_names_what_lies_outside_the_tenants_schema(erp: Erp, case: str) -> None:
    answer = erp.ask("POST", "/rogue/query", params={"sql": OUTSIDE[case]})
    assert answer.status_code >= 400
    assert not re.search("closed_shop|shared_things|secret|rates|tenants", answer.text), answer.text
    assert ID.search(answer.text)


def test_what_may_have_been_written_is_not_to_be_tried_again(erp: Erp) -> None:
    read = erp.ask("GET", "/rogue/query", params={"sql": "SELECT die()"})
    assert (read.status_code, ID.sub("", read.json()["error"])) == (
        503, "the database returned an error: try again ( in the server's log)",
    )  # fmt: skip
    begun = erp.ask("POST", "/rogue/query", params={"sql": "SELECT die()"})
    assert (begun.status_code, "again" in begun.text) == (503, False)
    ended = erp.ask("POST", "/rogue/query", params={"sql": "INSERT INTO tombs VALUES (1)"})
    assert (ended.status_code, "again" in ended.text) == (500, False)
    assert "the connection was lost during the commit: check whether it was written" in ended.text


def test_many_requests_at_once_take_turns_at_few_connections(erp: Erp) -> None:
    """More than the server has threads: those that wait for a connection must leave one to those that have it."""
    with ThreadPoolExecutor(64) as threads:
        answers = list(threads.map(lambda _: erp.ask("GET", "/rogue/naps").status_code, range(64)))
    assert answers == [200] * 64


def test_an_async_route_gets_its_body_and_the_public_objects_of_modules(erp: Erp) -> None:
    assert erp.ask("POST", "/rogue/echo", json={"a": 1}).json() == ["acme", {"a": 1}, "its public object"]


def test_any_asgi_application_is_mounted_under_its_modules_name(erp: Erp) -> None:
    assert erp.ask("GET", "/plain/a/b").text == f"({erp.customers()},) at /plain/a/b"


def test_bad_input_is_one_line(erp: Erp) -> None:
    assert (
        erp.ask("GET", "/sales/orders?limit=x").json()["error"].startswith("query limit: input should be a valid int")
    )
    assert erp.ask("POST", "/sales/orders", json={}).json() == {"error": "body order_id: field required"}
    assert erp.ask("GET", "/sales/nowhere").json() == {"error": "Not Found"}
    assert erp.ask("GET", "/nowhere", tenant=None).json() == {"error": "Not Found"}
    too_much = erp.ask("POST", "/rogue/echo", content=b"x" * (16 * 1024 * 1024 + 1))
    assert (too_much.status_code, too_much.json()) == (413, {"error": "the body has more than 16,777,216 bytes"})


def test_health_and_the_documentation_need_no_tenant(erp: Erp) -> None:
    assert erp.ask("GET", "/health", tenant=None).json()["status"] == "ok"
    paths = erp.ask("GET", "/openapi.json", tenant=None).json()["paths"]
    assert {"/sales/orders", "/inventory/stock", "/health"} <= set(paths)
    assert [one["name"] for one in paths["/inventory/stock"]["get"]["parameters"]] == ["x-tenant"]


def environment(erp: Erp) -> dict[str, str]:
    return os.environ | {"ERPKIT_DATABASE": erp.database.conninfo, "ERPKIT_MODULES": "erpkit.sample"}


def test_erpkit_serve_hands_events_to_their_handlers_and_at_sigterm_answers_what_it_has_in_hand(erp: Erp) -> None:
    before = erp.count("inventory_reservations") + erp.count("inventory_shortages")
    command = [sys.executable, "-c", "from erpkit.cli import main; main()", "serve", "--port", "0", "--dispatch"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment(erp), **pipes) as server:
        try:
            assert server.stdout is not None
            module, url = server.stdout.readline().rstrip("\n").split("\t")
            url = url.removesuffix(f"/{module}")
            answer = httpx.post(f"{url}/sales/orders", json=order(), headers={"X-Tenant": "acme"}, timeout=60)
            assert answer.status_code == 201
            deadline = time.monotonic() + 60
            while erp.count("inventory_reservations") + erp.count("inventory_shortages") == before or erp.waiting():
                assert time.monotonic() < deadline, "the order's events were not handled"
                time.sleep(0.05)
            in_hand = stop_while_a_request_waits(erp, server, url)
            _, err = server.communicate(timeout=60)
        finally:
            server.kill()  # where something above failed; it has ended otherwise
    assert in_hand.status_code == 201
    assert (server.returncode, "stopped" in err.splitlines(), "Traceback" in err) == (0, True, False)


def stop_while_a_request_waits(erp: Erp, server: subprocess.Popen[str], url: str) -> httpx.Response:
    """Send SIGTERM while an order waits for the tenant's log, which somebody else holds; return the order's answer."""
    lock = "hashtextextended('erpkit.append.tenant_acme', 0)"
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with ThreadPoolExecutor(1) as thread, erp.database.connection() as look:
        with erp.database.transaction() as holder:
            holder.execute(f"SELECT pg_advisory_xact_lock({lock})")
            answer = thread.submit(
                httpx.post, f"{url}/sales/orders", json=order(), headers={"X-Tenant": "acme"}, timeout=60
            )
            deadline = time.monotonic() + 60
            while look.execute(waiting).fetchone() == (0,):
                assert time.monotonic() < deadline, "the order does not wait"
                time.sleep(0.02)
            server.send_signal(signal.SIGTERM)
        return answer.result()


def test_an_assistant_reads_and_writes_only_as_it_may(erp: Erp) -> None:
    server = StdioServerParameters(
        command=sys.executable, args=["-c", "from erpkit.cli import main; main()", "mcp"], env=environment(erp)
    )
    with Path(os.devnull).open("w") as nowhere:
        said = anyio.run(_converse, server, nowhere)
    assert said["tools"] == {"list_tenants": True, "sales_list_orders": True, "inventory_stock_levels": True}
    assert [row["sku"] for row in said["stock"]["result"]] == ["A-001", "B-002", "C-003"]
    assert said["errors"] == [
        "there is no tenant 'acne'",
        "tenant closed_shop is suspended",
        "tenant: field required",
        "limit: input should be a valid integer, unable to parse string as an integer",
        "LIMIT must not be negative",
        "Unknown tool: sales_place_order",
    ]


async def _converse(parameters: StdioServerParameters, errors: Any) -> dict[str, Any]:
    async with Client(stdio_client(parameters, errlog=errors)) as client:
        tools = (await client.list_tools()).tools
        stock = await client.call_tool("inventory_stock_levels", {"tenant": "acme"})
        failed = [
            await client.call_tool(name, arguments)
            for name, arguments in (
                ("sales_list_orders", {"tenant": "acne"}),
                ("sales_list_orders", {"tenant": "closed_shop"}),
                ("sales_list_orders", {}),
                ("sales_list_orders", {"tenant": "acme", "limit": "many"}),
                ("sales_list_orders", {"tenant": "acme", "limit": -1}),
                ("sales_place_order", {"tenant": "acme", "customer_id": str(UUID(int=1)), "lines": []}),
            )
        ]
    assert all(result.is_error for result in failed)
    return {
        "tools": {tool.name: tool.annotations and tool.annotations.read_only_hint for tool in tools},
        "stock": stock.structured_content,
        "errors": [result.content[0].text for result in failed],  # type: ignore[union-attr]
    }


def delete_orders(call: Call) -> int:
    """Says that it reads, and does not."""
    return call.connection.execute("DELETE FROM sales_order_lines").rowcount


def crash(call: Call) -> int:
    """Fails."""
    raise ZeroDivisionError("a secret of the server")


def test_tools_that_write_are_offered_only_when_asked_and_others_cannot_write(erp: Erp) -> None:
    odd = Module("odd", tools=(Tool(delete_orders), Tool(crash)))
    application = Application(erp.database, Registry.of([*erp.registry.modules, odd]), {})

    async def converse() -> list[Any]:
        async with Client(build_tools(application, allow_writes=True, tenants=["acme"])) as client:
            lines = [{"sku": "A-001", "quantity": 1}]
            asked = {"tenant": "acme", "customer_id": str(UUID(int=1)), "lines": lines}
            return [
                await client.call_tool("sales_place_order", asked),
                await client.call_tool("odd_delete_orders", {"tenant": "acme"}),
                await client.call_tool("odd_crash", {"tenant": "acme"}),
                await client.call_tool("sales_list_orders", {"tenant": "closed_shop"}),
            ]

    placed, refused, crashed, outside = anyio.run(converse)
    with erp.database.tenant_transaction(erp.tenant) as connection:
        found = connection.execute("SELECT order_id FROM sales_orders").fetchall()
    assert UUID(json.loads(placed.content[0].text)) in {row[0] for row in found}
    assert erp.newest_events(1) == ["sales.OrderPlaced"]
    assert refused.content[0].text == "cannot execute DELETE in a read-only transaction"
    assert ID.sub("error ID", crashed.content[0].text) == "odd_crash failed (error ID in the server's log)"
    assert outside.content[0].text == "there is no tenant 'closed_shop'"


@dataclass(frozen=True)
class Part:
    sku: str
    note: str = ""


def count_parts(call: Call, parts: list[Part], least: Annotated[int, "The least."] = 0, most: int = 9) -> UUID:
    """Count parts.

    Args:
        parts: What to count,
            all of it.
        most (int): The most.
    """
    return UUID(int=len(parts))


def who(call: Call) -> str:
    """Tell the login."""
    found = call.connection.execute("SELECT session_user::text").fetchone()
    assert found is not None
    return str(found[0])


def promise(call: Call) -> int:
    """Writes, and then returns something else than it promised."""
    register(call)
    return "many"  # type: ignore[return-value]


async def called(erp: Erp, tools: list[Tool], *calls: tuple[str, dict[str, Any]], **options: Any) -> list[Any]:
    """Return the tools that a client is offered, and what it gets for each call."""
    application = Application(erp.database, Registry.of([*erp.registry.modules, Module("odd", tools=(*tools,))]), {})
    async with Client(build_tools(application, **options)) as client:
        offered = {tool.name: tool for tool in (await client.list_tools()).tools}
        return [offered, *[await client.call_tool(name, arguments) for name, arguments in calls]]


def test_an_assistant_is_told_what_each_parameter_is_and_what_comes_back(erp: Erp) -> None:
    (offered,) = anyio.run(partial(called, allow_writes=True), erp, [Tool(count_parts)])
    said = {name: one.get("description") for name, one in offered["odd_count_parts"].input_schema["properties"].items()}
    assert said == {
        "tenant": "The tenant's slug.", "parts": "What to count, all of it.", "least": "The least.", "most": "The most.",
    }  # fmt: skip
    assert offered["odd_count_parts"].output_schema["properties"]["result"]["format"] == "uuid"
    assert all(tool.output_schema for tool in offered.values())
    silent_ones = build_tools(Application(erp.database, Registry.of([Module("odd", tools=(Tool(sum_up),))]), {}))
    assert silent_ones.undescribed == ["odd_sum_up: limit"]


def sum_up(call: Call, limit: int) -> int:
    """Say nothing of the limit."""
    return limit


def test_an_argument_that_a_tool_does_not_have_is_refused_also_inside_a_record(erp: Erp) -> None:
    _, flat, inside, text, fine, none = anyio.run(
        called, erp, [Tool(count_parts)],
        ("odd_count_parts", {"tenant": "acme", "parts": [], "lest": 3}),
        ("odd_count_parts", {"tenant": "acme", "parts": [{"sku": "A", "nots": "x"}]}),
        ("odd_count_parts", {"tenant": "acme", "parts": '[{"sku": "A", "nots": "x"}]'}),
        ("odd_count_parts", {"tenant": "acme", "parts": [{"sku": "A", "note": "x"}]}),
        ("list_tenants", {"tenant": "acme"}),
    )  # fmt: skip
    assert flat.content[0].text == "odd_count_parts has no parameter 'lest': it has tenant, parts, least, most"
    assert inside.content[0].text == "odd_count_parts parts 0 has no parameter 'nots': it has sku, note"
    assert text.content[0].text == inside.content[0].text
    assert fine.structured_content == {"result": str(UUID(int=1))}
    assert none.content[0].text == "list_tenants has no parameter 'tenant': it has none"


def test_an_assistant_can_list_the_tenants_that_it_may_work_with(erp: Erp) -> None:
    _, every = anyio.run(called, erp, [], ("list_tenants", {}))
    assert {(row["slug"], row["status"]) for row in every.structured_content["result"]} == {
        ("acme", "active"), ("closed_shop", "suspended"),
    }  # fmt: skip
    _, one = anyio.run(partial(called, tenants=["acme"]), erp, [], ("list_tenants", {}))
    assert [row["slug"] for row in one.structured_content["result"]] == ["acme"]


def test_a_tool_that_does_not_write_runs_under_the_reading_login(erp: Erp) -> None:
    tools = partial(called, allow_writes=True)
    _, reads = anyio.run(tools, erp, [Tool(who)], ("odd_who", {"tenant": "acme"}))
    _, writes = anyio.run(tools, erp, [Tool(who, writes=True)], ("odd_who", {"tenant": "acme"}))
    assert reads.structured_content == {"result": "erpkit_reader"}
    assert writes.structured_content != reads.structured_content


def test_what_a_tool_wrote_is_undone_when_its_result_is_not_what_it_promised(erp: Erp) -> None:
    before = erp.customers()
    tools = partial(called, allow_writes=True)
    _, failed = anyio.run(tools, erp, [Tool(promise, writes=True)], ("odd_promise", {"tenant": "acme"}))
    assert ID.sub("error ID", failed.content[0].text) == "odd_promise failed (error ID in the server's log)"
    assert erp.customers() == before


def untyped(call: Call, limit) -> int:  # type: ignore[no-untyped-def]
    """Has no type."""
    return 0


def silent(call: Call) -> int:
    return 0


def alone() -> int:
    """Takes nothing."""
    return 0


async def slow(call: Call) -> int:
    """Is async."""
    return 0


def greedy(call: Call, **options: int) -> int:
    """Takes anything."""
    return 0


def confused(call: Call, tenant: str) -> int:
    """Wants a tenant of its own."""
    return 0


def strange(call: Call, lock: threading.Event) -> int:
    """Wants what is not JSON."""
    return 0


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (untyped, "tool odd_untyped has no type for limit"),
        (silent, "tool odd_silent has no docstring"),
        (alone, "tool odd_alone takes no parameters: its first one is the context"),
        (slow, "tool odd_slow is async: write a plain function"),
        (greedy, "tool odd_greedy takes any number of parameters: name each one"),
        (confused, "tool odd_confused has a parameter `tenant`"),
        (strange, "tool odd_strange cannot be offered: "),
    ],
)
def test_a_tool_that_an_assistant_could_not_use_stops_the_start(erp: Erp, function: Any, said: str) -> None:
    application = Application(erp.database, Registry.of([Module("odd", tools=(Tool(function),))]), {})
    with pytest.raises(ModuleError, match=said):
        build_tools(application)


@pytest.mark.parametrize(
    ("routes", "said"),
    [
        ("no_such.place:router", r"module odd: its routes no_such\.place:router cannot be loaded: ModuleNotFoundError"),
        ("erpkit.app.http:rooter", "has no attribute 'rooter'"),
        (42, "module odd: its routes are 42: give a FastAPI router or an ASGI application"),
    ],
)
def test_routes_that_cannot_be_served_stop_the_start(erp: Erp, routes: Any, said: str) -> None:
    application = Application(erp.database, Registry.of([Module("odd", routes=routes)]), {})
    with pytest.raises(ModuleError, match=said):
        build(application)


def test_an_address_that_is_taken_is_named() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1, port {port}: Address already in use"):
            listen("127.0.0.1", port)
