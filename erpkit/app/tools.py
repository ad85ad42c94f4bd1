"""Tools for AI assistants, over the Model Context Protocol by its official Python SDK."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Annotated, Any, get_type_hints

import psycopg
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import Field, ValidationError

from erpkit.app.application import Application, refusal_of
from erpkit.errors import ErpkitError, ModuleError, describe_error, first_line
from erpkit.modules import Tool


def build(application: Application, *, allow_writes: bool = False, tenants: Sequence[str] = ()) -> ToolServer:
    """Return a server of the modules' tools; those that write are only in it with `allow_writes`.

    `tenants` are the only ones that it serves, or all without a name. Raises ModuleError for a tool without types or docstring.
    """
    server = ToolServer("erpkit", version=version("erpkit"), instructions=_instructions(tenants), log_level="ERROR")
    for name, tool in application.tools.items():
        if allow_writes or not tool.writes:
            _add(server, name, tool, _callable(application, name, tool, frozenset(tenants)))
    return server


class ToolServer(MCPServer):
    """The SDK's server, with errors of one line."""

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> Any:
        """Call a tool; raises ToolError."""
        try:
            return await super().call_tool(name, arguments, context)
        except ToolError as error:
            raise ToolError(_one_line(error)) from error.__cause__


def _add(server: ToolServer, name: str, tool: Tool, call: Callable[..., Any]) -> None:
    annotations = ToolAnnotations(read_only_hint=not tool.writes, destructive_hint=tool.writes)
    try:
        server.add_tool(call, name=name, description=_description(name, tool), annotations=annotations)
    except ErpkitError:
        raise
    except Exception as error:  # of the SDK or of pydantic, for a type that is not JSON, say
        raise ModuleError(f"tool {name} cannot be offered: {describe_error(error)}") from error


def _one_line(error: ToolError) -> str:
    cause = error.__cause__
    if isinstance(cause, ToolError):
        return str(cause)
    if isinstance(cause, ValidationError):
        first = cause.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg'][0].lower()}{first['msg'][1:]}"
    return first_line(error)


def _callable(application: Application, name: str, tool: Tool, allowed: frozenset[str]) -> Callable[..., Any]:
    """Return what the SDK calls: the tool's own parameters, with the tenant in place of the context."""

    def call(tenant: str, **arguments: Any) -> Any:
        try:
            found = application.find_tenant(tenant) if not allowed or tenant in allowed else None
            if found is None:
                raise ErpkitError(f"there is no tenant {tenant!r}")
            if not found.is_active:
                raise ErpkitError(f"tenant {tenant} is {found.status}")
            with application.call(found, name, write=tool.writes) as context:
                return tool.function(context, **arguments)
        except (ErpkitError, psycopg.Error) as error:
            raise ToolError(str(refusal_of(error, name))) from error

    vars(call)["__signature__"] = _signature(name, tool)
    call.__name__ = name
    return call


def _signature(name: str, tool: Tool) -> inspect.Signature:
    parameters = [*inspect.signature(tool.function).parameters.values()][1:]
    hints = _hints(name, tool)
    if fault := _fault(tool, parameters, hints):
        raise ModuleError(f"tool {name} {fault}")
    tenant = inspect.Parameter(
        "tenant", inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[str, Field(description="The tenant's slug.")]
    )
    own = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[one.name]) for one in parameters]
    return inspect.Signature([tenant, *own], return_annotation=hints["return"])


def _fault(tool: Tool, parameters: Sequence[inspect.Parameter], hints: Mapping[str, Any]) -> str | None:
    """Return what keeps an assistant from using a tool, in words."""
    if not inspect.signature(tool.function).parameters:
        return "takes no parameters: its first one is the context"
    if inspect.iscoroutinefunction(tool.function):
        return "is async: write a plain function, it runs in a thread of its own"
    if any(one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) for one in parameters):
        return "takes any number of parameters: name each one"
    if any(one.name == "tenant" for one in parameters):
        return "has a parameter `tenant`: that is the assistant's, and the tool finds it in its context"
    if untyped := [one.name for one in parameters if one.name not in hints]:
        return f"has no type for {', '.join(untyped)}"
    return None if "return" in hints else "has no type for what it returns"


def _hints(name: str, tool: Tool) -> Mapping[str, Any]:
    try:
        return get_type_hints(tool.function, include_extras=True)
    except Exception as error:
        raise ModuleError(f"tool {name}: its types cannot be read: {type(error).__name__}: {error}") from error


def _description(name: str, tool: Tool) -> str:
    text = inspect.getdoc(tool.function)
    if not text:
        raise ModuleError(f"tool {name} has no docstring: an assistant cannot tell what it is for")
    return text


def _instructions(tenants: Sequence[str]) -> str:
    which = f"one of: {', '.join(tenants)}" if tenants else "the slug of a tenant, which the user knows"
    return f"Tools of an ERP. Each call works on one tenant ({which}), inside one transaction."
