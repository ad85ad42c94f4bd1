"""Tenants: the registry, their lives from creation to removal, inspecting all, and drift."""

from erpkit.tenants.across import Across, across
from erpkit.tenants.detail import TenantDetail, inspect_tenant
from erpkit.tenants.drift import Difference, drift_script, find_drift
from erpkit.tenants.exports import export_tenant
from erpkit.tenants.imports import import_tenant
from erpkit.tenants.inspection import TenantInspection, inspect_tenants
from erpkit.tenants.lifecycle import create_tenant, ensure_template, rename_tenant
from erpkit.tenants.manifest import Manifest, read_manifest, verify_export
from erpkit.tenants.mentions import Mention, MovedTenant
from erpkit.tenants.provision import ProvisionPlan, plan_provision, provision_tenant
from erpkit.tenants.registry import ensure_registry, find_tenants, get_tenant, list_tenants, set_status
from erpkit.tenants.removal import DropPlan, DropResult, drop_tenant, plan_drop
from erpkit.tenants.roles import ANALYSTS

__all__ = [
    "ANALYSTS",
    "Across",
    "Difference",
    "DropPlan",
    "DropResult",
    "Manifest",
    "Mention",
    "MovedTenant",
    "ProvisionPlan",
    "TenantDetail",
    "TenantInspection",
    "across",
    "create_tenant",
    "drift_script",
    "drop_tenant",
    "ensure_registry",
    "ensure_template",
    "export_tenant",
    "find_drift",
    "find_tenants",
    "get_tenant",
    "import_tenant",
    "inspect_tenant",
    "inspect_tenants",
    "list_tenants",
    "plan_drop",
    "plan_provision",
    "provision_tenant",
    "read_manifest",
    "rename_tenant",
    "set_status",
    "verify_export",
]
