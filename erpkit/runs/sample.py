"""Sample data for the demo and for rehearsals, from whoever offers it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from erpkit.database import Database
from erpkit.modules import Registry

__all__ = ["plant_sample"]


def plant_sample(
    database: Database, registry: Registry, tenants: int, progress: Callable[[str], object] = str, **options: Any
) -> Any:
    """Make the sample ERP's tenants, with troubles among them; return which tenant is in which trouble.

    The sample ERP offers this under the entry-point group `erpkit.demo`: erpkit itself does not know it.
    """
    (entry,) = entry_points(group="erpkit.demo")
    return entry.load()(database, registry, tenants=tenants, progress=progress, **options)
