"""The application: the modules put together, started in order, and open to HTTP and to AI assistants."""

from erpkit.app.application import Application, Call, compose

__all__ = ["Application", "Call", "compose"]
