"""Modules of the ERP: what one is, which there are, the order they load in, and what is wrong with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from erpkit.late import import_late

if TYPE_CHECKING:
    from erpkit.modules.check import ModuleCheck, check_modules
    from erpkit.modules.impact import Impact, WhatIf, cut_edges, find_impact
    from erpkit.modules.module import (
        CommandHandler,
        EventHandler,
        Module,
        ModuleLike,
        Query,
        QueryHandler,
        Retry,
        Tool,
        Upcaster,
        is_foreign,
        register,
        tables_of,
        tools_of,
    )
    from erpkit.modules.registry import Registry, find_modules, load_modules, load_order, read_candidates
    from erpkit.modules.rules import Layers, Rule, Rules
    from erpkit.modules.rules_file import read_rules
    from erpkit.modules.wiring import Couplings, Edge, Unread

__all__ = [
    "CommandHandler",
    "Couplings",
    "Edge",
    "EventHandler",
    "Impact",
    "Layers",
    "Module",
    "ModuleCheck",
    "ModuleLike",
    "Query",
    "QueryHandler",
    "Registry",
    "Retry",
    "Rule",
    "Rules",
    "Tool",
    "Unread",
    "Upcaster",
    "WhatIf",
    "check_modules",
    "cut_edges",
    "find_impact",
    "find_modules",
    "is_foreign",
    "load_modules",
    "load_order",
    "read_candidates",
    "read_rules",
    "register",
    "tables_of",
    "tools_of",
]


__getattr__ = import_late(__name__)
