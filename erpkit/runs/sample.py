"""Sample data for the demo and for rehearsals, from whoever offers it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from erpkit.database import Database
from erpkit.modules import Registry

__all__ = ["plant_sample", "sample_kit"]


def plant_sample(
    database: Database, registry: Registry, tenants: int, progress: Callable[[str], object] = str, **options: Any
) -> Any:
    """Make the sample ERP's tenants, with troubles among them; return which tenant is in which trouble.

    The sample ERP offers this under the entry-point group `erpkit.demo`: erpkit itself does not know it.
    """
    return sample_kit().plant(database, registry, tenants=tenants, progress=progress, **options)


def sample_kit() -> Any:
    """Return the module that the entry point names; beside `plant` it offers what rehearsals make their troubles with."""
    (entry,) = entry_points(group="erpkit.demo")
    return import_module(entry.module)
