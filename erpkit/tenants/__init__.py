"""Tenants: the registry, creating one, inspecting all, and drift."""

from erpkit.tenants.across import Across, across
from erpkit.tenants.drift import find_drift
from erpkit.tenants.inspection import TenantInspection, inspect_tenants
from erpkit.tenants.lifecycle import create_tenant, ensure_template
from erpkit.tenants.registry import ensure_registry, find_tenants, get_tenant, list_tenants, set_status

__all__ = [
    "Across",
    "TenantInspection",
    "across",
    "create_tenant",
    "ensure_registry",
    "ensure_template",
    "find_drift",
    "find_tenants",
    "get_tenant",
    "inspect_tenants",
    "list_tenants",
    "set_status",
]
