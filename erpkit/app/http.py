"""HTTP: the modules' routes, each under its module's name, every request inside a transaction of its tenant."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated, Any

import psycopg
from fastapi import APIRouter, Depends, FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from erpkit.app.application import Application
from erpkit.app.call import Call
from erpkit.app.extras import load_routes
from erpkit.app.refusals import refusal_of
from erpkit.app.requests import SCOPE, TenantRequests
from erpkit.errors import ErpkitError, ModuleError

__all__ = ["TenantCall", "build"]


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
