"""The application: the modules put together, started in order, and open to HTTP and to AI assistants."""

from erpkit.app.application import Application, compose
from erpkit.app.call import Call

__all__ = ["Application", "Call", "compose"]
