"""Tenants: the registry, creating one, inspecting all, and drift."""

from erpkit.tenants.detail import TenantDetail, inspect_tenant
from erpkit.tenants.drift import Difference, drift_script, find_drift
from erpkit.tenants.inspection import TenantInspection, inspect_tenants
from erpkit.tenants.lifecycle import create_tenant, ensure_template
from erpkit.tenants.registry import ensure_registry, find_tenants, get_tenant, list_tenants, set_status

__all__ = [
    "Difference",
    "TenantDetail",
    "TenantInspection",
    "create_tenant",
    "drift_script",
    "ensure_registry",
    "ensure_template",
    "find_drift",
    "find_tenants",
    "get_tenant",
    "inspect_tenant",
    "inspect_tenants",
    "list_tenants",
    "set_status",
]
