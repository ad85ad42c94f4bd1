"""Modules of the ERP: what one is, which there are, the order they load in, and what is wrong with them."""

from erpkit.modules.check import Knot, ModuleCheck, check_modules
from erpkit.modules.edges import Couplings, Edge
from erpkit.modules.impact import Impact, WhatIf, cut_edges, find_impact
from erpkit.modules.layers import Layers
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
    "Couplings",
    "Edge",
    "EventHandler",
    "Impact",
    "Knot",
    "Layers",
    "Module",
    "ModuleCheck",
    "ModuleFinding",
    "ModuleLike",
    "Query",
    "QueryHandler",
    "Registry",
    "Upcaster",
    "WhatIf",
    "check_modules",
    "cut_edges",
    "find_impact",
    "find_modules",
    "load_modules",
    "load_order",
    "topic_of",
]
