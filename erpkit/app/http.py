"""HTTP: the modules' routes, each under its module's name, every request inside a transaction of its tenant."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from importlib.metadata import version
from typing import Annotated, Any

import anyio
import psycopg
import uvicorn
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from erpkit.app.application import Application, Call, load_routes
from erpkit.app.refusal import RefusedError, refusal_of
from erpkit.errors import ErpkitError, ModuleError, UsageError

HEADER = "x-tenant"


def tenant_of(headers: Iterable[tuple[bytes, bytes]], domain: str | None) -> str | None:
    """Return the slug that a request names, or None; raises UsageError where it names more than one. Pure.

    With `domain`, `acme.erp.example.com` under `erp.example.com` is `acme`. A hyphen, which a host name may have and a slug may
    not, stands for an underscore. Where header and host disagree the request is refused: a proxy may have checked only one of them.
    """
    found = {value.decode("latin-1").strip() for name, value in headers if name.lower() == HEADER.encode()}
    if domain is not None:
        hosts = (value.decode("latin-1") for name, value in headers if name.lower() == b"host")
        found |= {slug for host in hosts if (slug := _subdomain(host, domain))}
    if len(found) > 1:
        raise UsageError(f"the request names more than one tenant: {', '.join(sorted(slug[:48] for slug in found))}")
    return next(iter(found), None) or None


def check_domain(domain: str) -> str:
    """Return a domain in lower case, without dots around it; raises UsageError for one with a port or a path."""
    name = domain.strip().strip(".").lower()
    if not name or any(sign in name for sign in ":/ "):
        raise UsageError(f"{domain!r} is not a domain: write erp.example.com, without port and path")
    return name


def _subdomain(host: str, domain: str) -> str | None:
    name = host.partition(":")[0].strip().rstrip(".").lower()
    label = name.removesuffix(f".{domain}")
    return label.replace("-", "_") if label != name and "." not in label else None


SCOPE = "erpkit.call"  # where a route finds its Call, in ASGI's scope
_READING = ("GET", "HEAD", "OPTIONS")
_WAIT = 30.0  # seconds for the request's body, and for a turn at the database
_MOST_BYTES = 16 * 1024 * 1024  # of a request's body


class TenantRequests:
    """An ASGI application around another one, which it lets work inside a transaction of the tenant.

    GET, HEAD and OPTIONS run in a transaction that only reads. Others commit when the answer's status is below 400, and are
    rolled back when it is not, or on an exception. The body is read before the transaction begins and the answer sent after it
    has ended: a slow client holds no connection, and no client is told of what was not committed.
    """

    def __init__(self, inner: ASGIApp, application: Application, served: frozenset[str], domain: str | None) -> None:
        self._inner = inner
        self._application = application
        self._served = served
        self._domain = domain
        self._turns = anyio.Semaphore(application.database.max_connections)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as ASGI calls it."""
        if scope["type"] == "lifespan" or not self._is_served(scope):
            await self._inner(scope, receive, send)
        elif scope["type"] == "websocket":
            await send(
                {"type": "websocket.close", "code": 1008, "reason": "a websocket cannot be served inside a transaction"}
            )
        else:
            await self._answer(scope, receive, send)

    def _is_served(self, scope: Scope) -> bool:
        return scope["path"].partition("/")[2].partition("/")[0] in self._served

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = f"{scope['method']} {scope['path']}"
        try:
            answer: Sequence[Message] = await self._run(scope, receive, name)
        except Exception as error:
            refused = refusal_of(error, name)
            await JSONResponse({"error": str(refused)}, refused.status)(scope, receive, send)
            return
        for message in answer:
            await send(message)

    async def _run(self, scope: Scope, receive: Receive, name: str) -> Sequence[Message]:
        slug = self._slug(scope)
        body = await _read_body(receive)
        with anyio.move_on_after(_WAIT) as waiting:
            await self._turns.acquire()
        if waiting.cancelled_caught:
            raise RefusedError(503, "too many requests at once: try again")
        try:
            write = scope["method"] not in _READING
            tenant = await run_sync(partial(self._application.admit, slug, write=write))
            call = self._application.call(tenant, name, write=write)
            try:
                return await _within(call, self._inner, scope, body)
            except Exception as error:
                raise refusal_of(error, name, tenant, write=write) from error
        finally:
            self._turns.release()

    def _slug(self, scope: Scope) -> str:
        try:
            slug = tenant_of(scope["headers"], self._domain)
        except UsageError as error:
            raise RefusedError(400, str(error)) from None
        if slug is None:
            host = f", or call <tenant>.{self._domain}" if self._domain else ""
            raise RefusedError(400, f"the request names no tenant: send the header X-Tenant{host}")
        return slug


class _NotDoneError(Exception):
    """Rolls a transaction back whose answer is an error."""


async def _within(
    transaction: AbstractContextManager[Call], inner: ASGIApp, scope: Scope, body: bytes
) -> Sequence[Message]:
    """Run `inner` inside the transaction and return its answer; the database is waited for in threads."""
    call = await run_sync(transaction.__enter__)
    answer = _Answer(body)
    try:
        await inner({**scope, SCOPE: call}, answer.receive, answer.send)
        if answer.status >= 400:
            raise _NotDoneError
    except BaseException as error:
        with anyio.CancelScope(shield=True):
            await run_sync(_leave, transaction, error)
        if not isinstance(error, _NotDoneError):
            raise
    else:
        with anyio.CancelScope(shield=True):
            await run_sync(_leave, transaction, None)
    return answer.messages


def _leave(transaction: AbstractContextManager[Call], error: BaseException | None) -> None:
    """End the transaction; raises what its end raises, but not `error`, which the caller handles."""
    try:
        transaction.__exit__(type(error) if error is not None else None, error, None)
    except BaseException as raised:
        if raised is not error:
            raise


class _Answer:
    """Hands a request's body on, and keeps what is answered until it may be sent."""

    def __init__(self, body: bytes) -> None:
        self.messages: list[Message] = []
        self._body: bytes | None = body

    @property
    def status(self) -> int:
        """The answer's status; 500 where there was none."""
        started = (m["status"] for m in self.messages if m["type"] == "http.response.start")
        return next(started, 500)

    async def receive(self) -> Message:
        """Give the body once, and then wait: the client is still there."""
        if self._body is None:
            await anyio.sleep_forever()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Any) -> None:
        """Keep one message of the answer."""
        self.messages.append(message)


async def _read_body(receive: Receive) -> bytes:
    body = bytearray()
    with anyio.move_on_after(_WAIT) as reading:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RefusedError(400, "the client went away")
            body += message.get("body", b"")
            if len(body) > _MOST_BYTES:
                raise RefusedError(413, f"the body has more than {_MOST_BYTES:,} bytes")
            if not message.get("more_body", False):
                return bytes(body)
    assert reading.cancelled_caught
    raise RefusedError(408, f"the body did not arrive within {_WAIT:.0f} s")


def _current(request: Request) -> Call:
    call: Call = request.scope[SCOPE]
    return call


TenantCall = Annotated[Call, Depends(_current)]
"""The type of a route's parameter that takes its Call: `def list_orders(call: TenantCall, limit: int = 20) -> list[Order]`."""


def build(application: Application, domain: str | None = None) -> TenantRequests:
    """Return the ASGI application: `/{module}/…` of each module with routes, `/health`, and FastAPI's `/docs`.

    The tenant is named by the header X-Tenant or, with `domain`, by the host. Raises ModuleError for routes that cannot be
    loaded, or are neither a router nor an ASGI application.
    """
    api = FastAPI(title="erpkit", version=version("erpkit"))
    api.add_exception_handler(HTTPException, _tell)
    api.add_exception_handler(RequestValidationError, _tell)
    routes = {name: load_routes(name, found) for name, found in application.routes.items()}
    for name, found in routes.items():
        _mount(api, name, found)

    @api.get("/health", tags=["erpkit"])
    def health() -> Any:
        """Whether the database answers."""
        try:
            with application.database.connection() as connection:
                connection.execute("SELECT")
        except (ErpkitError, psycopg.Error) as error:
            refused = refusal_of(error, "GET /health")
            return JSONResponse({"error": str(refused)}, refused.status)
        return {"status": "ok", "modules": list(routes)}

    return TenantRequests(api, application, frozenset(routes), domain)


def _mount(api: FastAPI, name: str, routes: object) -> None:
    if isinstance(routes, APIRouter):
        api.include_router(routes, prefix=f"/{name}", tags=[name], dependencies=[Depends(_documented)])
    elif callable(routes):
        api.mount(f"/{name}", routes)
    else:
        raise ModuleError(f"module {name}: its routes are {routes!r}: give a FastAPI router or an ASGI application")


async def _tell(_: Request, error: Exception) -> JSONResponse:
    """Say in one line what FastAPI found."""
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = " ".join(str(part) for part in first["loc"])
    return JSONResponse({"error": f"{place}: {first['msg'][0].lower()}{first['msg'][1:]}"}, 422)


def _documented(x_tenant: Annotated[str | None, Header(description="The tenant; or use its own host.")] = None) -> None:
    """Let the documentation ask for the tenant; it is read elsewhere."""


_GRACE = 30  # seconds for the requests under way


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes a free one. Raises UsageError, naming the address, where that fails."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]  # the address is named already
        raise UsageError(f"cannot listen on {host}, port {port}: {reason}") from None
    # Connections inherit it; without it an answer's head waits 40 ms for the client's acknowledgement before its body leaves.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def url_of(listening: socket.socket, host: str) -> str:
    """Return the URL that a listening socket is reached at."""
    return f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"


def serve(asgi: Any, listening: socket.socket) -> None:
    """Serve `asgi` until SIGTERM or Ctrl-C; requests under way are answered first."""
    config = uvicorn.Config(
        asgi, log_config=None, access_log=False, timeout_graceful_shutdown=_GRACE, server_header=False
    )
    # uvicorn raises the signal once more when it has stopped; what follows is to be the end of the caller's own blocks.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    uvicorn.Server(config).run(sockets=[listening])
