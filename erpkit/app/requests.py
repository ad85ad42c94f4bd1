"""Every request inside a transaction of its tenant: committed when it went well, and answered only then."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import anyio
from anyio.to_thread import run_sync
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from erpkit.app.application import Application
from erpkit.app.call import Call
from erpkit.app.refusals import RefusedError, refusal_of
from erpkit.app.resolve import tenant_of
from erpkit.database import Tenant
from erpkit.errors import UsageError

__all__ = ["SCOPE", "TenantRequests"]

SCOPE = "erpkit.call"  # where a route finds its Call, in ASGI's scope
_READING = ("GET", "HEAD", "OPTIONS")
_WAIT = 30.0  # seconds for the request's body, and for a turn at the database
_MOST_BYTES = 16 * 1024 * 1024  # of a request's body


class TenantRequests:
    """An ASGI application around another one, which it lets work inside a transaction of the tenant.

    GET, HEAD and OPTIONS run in a transaction that only reads. Others commit when the answer's status is below 400, and are
    rolled back when it is not, or on an exception. The body is read before the transaction begins and the answer sent after it
    has ended: a slow client holds no connection, and nobody is told of what did not come true.
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
            await send({"type": "websocket.close", "code": 1008, "reason": "a transaction is no place for a websocket"})
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
            tenant = await run_sync(self._find, slug, write)
            call = self._application.call(tenant, name, write=write)
            return await _within(call, self._inner, scope, body)
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

    def _find(self, slug: str, write: bool) -> Tenant:
        if write and not self._application.database.is_writable:
            raise RefusedError(403, "this database is only read")
        tenant = self._application.find_tenant(slug)
        if tenant is None:
            raise RefusedError(404, f"there is no tenant {slug[:48]!r}")
        if not tenant.is_active:
            raise RefusedError(403, f"tenant {slug} is {tenant.status}")
        return tenant


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
    """End the transaction; raises what its end raises, but not `error`, which the caller has in hand."""
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
