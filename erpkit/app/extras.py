"""What the application imports late: its optional libraries, and the routes of modules."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

from erpkit.errors import ModuleError, UsageError, describe_error

__all__ = ["import_optional", "load_routes"]


def import_optional(module: str, extra: str) -> ModuleType:
    """Import a module of erpkit's that needs the libraries of an extra; raises UsageError, naming the extra, without them."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library == "erpkit":
            raise
        raise UsageError(f"{library} is not installed: pip install 'erpkit[{extra}]'") from None


def load_routes(module: str, routes: object) -> object:
    """Return the routes of a module, imported if they are `package.module:name`; raises ModuleError where that fails."""
    if not isinstance(routes, str):
        return routes
    place, _, name = routes.partition(":")
    try:
        import_module(place)
        return getattr(sys.modules[place], name)
    except Exception as error:
        raise ModuleError(f"module {module}: its routes {routes} cannot be loaded: {describe_error(error)}") from error
