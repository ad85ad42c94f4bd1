"""Tenants: the registry, their lives from creation to removal, inspecting all, and drift."""

from erpkit.tenants.drift import find_drift
from erpkit.tenants.inspection import TenantInspection, inspect_tenants
from erpkit.tenants.lifecycle import create_tenant, ensure_template, rename_tenant
from erpkit.tenants.registry import ensure_registry, find_tenants, get_tenant, list_tenants, set_status
from erpkit.tenants.removal import DropPlan, DropResult, drop_tenant, plan_drop
from erpkit.tenants.roles import ANALYSTS

__all__ = [
    "ANALYSTS",
    "DropPlan",
    "DropResult",
    "TenantInspection",
    "create_tenant",
    "drop_tenant",
    "ensure_registry",
    "ensure_template",
    "find_drift",
    "find_tenants",
    "get_tenant",
    "inspect_tenants",
    "list_tenants",
    "plan_drop",
    "rename_tenant",
    "set_status",
]
