"""Modules of the ERP: what one is, which there are, the order they load in, and what is wrong with them."""

from erpkit.modules.check import ModuleCheck, check_modules
from erpkit.modules.module import (
    CommandHandler,
    EventHandler,
    Module,
    ModuleLike,
    Query,
    QueryHandler,
    Upcaster,
    topic_of,
)
from erpkit.modules.order import load_order
from erpkit.modules.registry import Registry, find_modules, load_modules
from erpkit.modules.wiring import ModuleFinding

__all__ = [
    "CommandHandler",
    "EventHandler",
    "Module",
    "ModuleCheck",
    "ModuleFinding",
    "ModuleLike",
    "Query",
    "QueryHandler",
    "Registry",
    "Upcaster",
    "check_modules",
    "find_modules",
    "load_modules",
    "load_order",
    "topic_of",
]
