"""Tools for AI assistants, over the Model Context Protocol by its official Python SDK."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, Any, get_args, get_type_hints

from jsonschema.validators import validator_for
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool as OfferedTool
from mcp.server.mcpserver.utilities.func_metadata import FuncMetadata
from mcp_types import ToolAnnotations
from pydantic import Field, ValidationError, create_model
from pydantic.fields import FieldInfo

from erpkit.app.application import Application
from erpkit.app.refusal import RefusedError, refusal_of
from erpkit.errors import ErpkitError, ModuleError, describe_error, first_line
from erpkit.modules import Tool

LISTING = "list_tenants"


def build(application: Application, *, allow_writes: bool = False, tenants: Sequence[str] = ()) -> ToolServer:
    """Return a server of the modules' tools, and of one that lists the tenants; those that write need `allow_writes`.

    `tenants` are the only ones that it serves, or all without a name. Raises ModuleError for a tool without types or docstring.
    """
    allowed = frozenset(tenants)
    if LISTING in application.tools:
        raise ModuleError(f"tool {LISTING}: erpkit has a tool of that name: give the function another one")
    offered = [_offer_listing(application, allowed)]
    for name, tool in application.tools.items():
        if allow_writes or not tool.writes:
            offered.append(_offer(application, name, tool, allowed))
    return ToolServer(offered, _instructions(tenants))


class ToolServer(MCPServer):
    """The SDK's server, with errors of one line, that refuses arguments which a tool does not have."""

    def __init__(self, offered: Sequence[OfferedTool], instructions: str) -> None:
        super().__init__(
            "erpkit", version=version("erpkit"), instructions=instructions, log_level="ERROR", tools=[*offered]
        )
        self.offered = {tool.name: tool for tool in offered}

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> Any:
        """Call a tool; raises ToolError."""
        if (tool := self.offered.get(name)) and (fault := _find_unknown(tool, arguments)):
            raise ToolError(fault)
        try:
            return await super().call_tool(name, arguments, context)
        except ToolError as error:
            raise ToolError(_one_line(error)) from error.__cause__

    @property
    def undescribed(self) -> list[str]:
        """The parameters of which an assistant learns no more than the name and the type, as `tool: parameter`."""
        return [
            f"{name}: {parameter}"
            for name, tool in self.offered.items()
            for parameter, schema in tool.parameters.get("properties", {}).items()
            if "description" not in schema
        ]


@dataclass(frozen=True)
class ListedTenant:
    """A tenant as an assistant sees it."""

    slug: str
    name: str
    status: str


def _offer_listing(application: Application, allowed: frozenset[str]) -> OfferedTool:
    def list_tenants() -> list[ListedTenant]:
        """List the tenants that the other tools can be called for; only an active one can be worked with."""
        try:
            found = application.list_tenants()
        except Exception as error:
            raise ToolError(str(refusal_of(error, LISTING))) from error
        served = (tenant for tenant in found if not allowed or tenant.slug in allowed)
        return [ListedTenant(tenant.slug, tenant.name, tenant.status) for tenant in served]

    hint = ToolAnnotations(read_only_hint=True, destructive_hint=False)
    offered = OfferedTool.from_function(list_tenants, annotations=hint)
    _close(offered.parameters)
    return offered


def _offer(application: Application, name: str, tool: Tool, allowed: frozenset[str]) -> OfferedTool:
    """Return the SDK's record of a tool, with closed schemas of what it takes and a schema of what it returns.

    The result is converted before the transaction ends: what cannot be converted is rolled back, not written and then denied.
    """
    converting: list[FuncMetadata] = []

    def call(tenant: str, **arguments: Any) -> Any:
        found = None
        try:
            if allowed and tenant not in allowed:
                raise RefusedError(404, f"there is no tenant {tenant[:48]!r}")
            found = application.admit(tenant, write=tool.writes)
            with application.call(found, name, write=tool.writes) as context:
                return converting[0].convert_result(tool.function(context, **arguments))
        except Exception as error:
            raise ToolError(str(refusal_of(error, name, found, write=tool.writes and found is not None))) from error

    vars(call)["__signature__"] = signature = _signature(name, tool)
    annotations = ToolAnnotations(read_only_hint=not tool.writes, destructive_hint=tool.writes)
    try:
        offered = OfferedTool.from_function(call, name, description=_description(name, tool), annotations=annotations)
        converting.append(_with_schema(name, offered.fn_metadata, signature.return_annotation))
    except ErpkitError:
        raise
    except Exception as error:  # of the SDK or of pydantic, for a type that is not JSON, say
        raise ModuleError(f"tool {name} cannot be offered: {describe_error(error)}") from error
    # A schema without a model is published, and the SDK does not convert a second time.
    offered.fn_metadata = converting[0].model_copy(update={"output_model": None})
    _close(offered.parameters)
    return offered


def _with_schema(name: str, metadata: FuncMetadata, returns: Any) -> FuncMetadata:
    """Return the metadata with a schema of the output, also for types for which the SDK makes none, such as UUID and date."""
    if metadata.output_schema is not None or _is_content(returns):
        return metadata
    model = create_model(f"{name}Output", result=(returns, ...))
    return FuncMetadata(arg_model=metadata.arg_model, output_model=model, wrap_output=True)


def _is_content(hint: Any) -> bool:
    """Tell whether a type is the SDK's own, such as an image: an assistant looks at it, and there are no data in it."""
    own = str(getattr(hint, "__module__", "")).partition(".")[0] in ("mcp", "mcp_types")
    return own or any(_is_content(part) for part in get_args(hint))


def _close(schema: dict[str, Any]) -> None:
    """Say in a schema that an object has no other fields than those named, unless its type allows them."""
    for part in (schema, *schema.get("$defs", {}).values()):
        if "properties" in part or part is schema:
            part.setdefault("additionalProperties", False)


def _find_unknown(tool: OfferedTool, arguments: dict[str, Any]) -> str | None:
    """Say in a line which argument a tool does not have, in the records inside its arguments, too; None if it has all."""
    validator = validator_for(tool.parameters)(tool.parameters)
    for error in validator.iter_errors(tool.fn_metadata.pre_parse_json(arguments)):
        if error.validator == "additionalProperties":
            known = list(error.schema.get("properties", {}))
            unknown = next(key for key in error.instance if key not in known)
            place = "".join(f" {part}" for part in error.absolute_path)
            return f"{tool.name}{place} has no parameter {unknown[:48]!r}: it has {', '.join(known) or 'none'}"
    return None


def _one_line(error: ToolError) -> str:
    cause = error.__cause__
    if isinstance(cause, ToolError):
        return str(cause)
    if isinstance(cause, ValidationError):
        first = cause.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg'][0].lower()}{first['msg'][1:]}"
    return first_line(error)


def _signature(name: str, tool: Tool) -> inspect.Signature:
    parameters = [*inspect.signature(tool.function).parameters.values()][1:]
    hints = _hints(name, tool)
    if fault := _fault(tool, parameters, hints):
        raise ModuleError(f"tool {name} {fault}")
    tenant = inspect.Parameter(
        "tenant", inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[str, Field(description="The tenant's slug.")]
    )
    said = _described(tool)
    own = [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=_describe(hints[one.name], said.get(one.name)))
        for one in parameters
    ]
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


_ARGUMENT = re.compile(r" {4}\*{0,2}(\w+)(?: \([^)]*\))?: *(.*)")


def _described(tool: Tool) -> dict[str, str]:
    """Return what the `Args:` section of a tool's docstring says of each parameter."""
    section = (inspect.getdoc(tool.function) or "").partition("\nArgs:\n")[2].partition("\n\n")[0]
    found: dict[str, str] = {}
    for line in section.splitlines():
        if match := _ARGUMENT.fullmatch(line):
            found[match[1]] = match[2]
        elif found:
            found[next(reversed(found))] += f" {line.strip()}"
    return found


def _describe(hint: Any, said: str | None) -> Any:
    """Return a parameter's type with its description: of `Annotated[int, "…"]`, of pydantic's Field, or what the docstring says."""
    notes = getattr(hint, "__metadata__", ())
    if any(isinstance(note, FieldInfo) and note.description for note in notes):
        return hint
    text = next((note for note in notes if isinstance(note, str)), said)
    return Annotated[hint, Field(description=text)] if text else hint


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
    which = f"one of: {', '.join(tenants)}" if tenants else f"the slug of a tenant; {LISTING} tells which there are"
    return f"Tools of an ERP. Each call works on one tenant ({which}), inside one transaction."
