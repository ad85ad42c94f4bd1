"""Tenants: the registry, their lives from creation to removal, inspecting all, and drift."""

from __future__ import annotations

from typing import TYPE_CHECKING

from erpkit.late import import_late

if TYPE_CHECKING:
    from erpkit.database import ANALYSTS
    from erpkit.tenants.adoption import AdoptionPlan, AdoptionRun, adopt_tenants, plan_adoption
    from erpkit.tenants.detail import TenantDetail, inspect_tenant
    from erpkit.tenants.doctor import Diagnosis, examine
    from erpkit.tenants.drift import Drift, compare_tenants, find_drift
    from erpkit.tenants.exports import export_tenant
    from erpkit.tenants.fleet import FleetInspection
    from erpkit.tenants.fleet_query import Across, across
    from erpkit.tenants.frames import AsText
    from erpkit.tenants.health import count_rows
    from erpkit.tenants.imports import import_tenant
    from erpkit.tenants.inspection import TenantInspection, inspect_tenants
    from erpkit.tenants.lifecycle import (
        MovedTenant,
        Provisioned,
        ProvisionPlan,
        create_tenant,
        ensure_template,
        plan_provision,
        provision_tenant,
        rename_tenant,
    )
    from erpkit.tenants.manifest import Manifest, read_manifest, verify_export
    from erpkit.tenants.ownership import HandOverPlan, HandOverRun, hand_over, plan_hand_over
    from erpkit.tenants.registry import ensure_registry, find_tenants, get_tenant, list_tenants, look_up, set_status
    from erpkit.tenants.release import ReleasePlan, ReleaseRun, plan_release, release_tenants
    from erpkit.tenants.removal import (
        DropPlan,
        DropResult,
        Offboarded,
        OffboardPlan,
        drop_tenant,
        offboard_tenant,
        plan_drop,
        plan_offboarding,
    )
    from erpkit.tenants.repair import RepairPlan, RepairRun, lint_repair, plan_repair, read_repair, run_repair
    from erpkit.tenants.restore import RestorePlan, RestoreRun, import_beside, plan_restore, restore_tenant, swap_in
    from erpkit.tenants.snapshot import (
        Snapshot,
        compare_snapshots,
        describe_figures,
        read_figures,
        read_snapshot,
        take_snapshot,
        write_snapshot,
    )

__all__ = [
    "ANALYSTS",
    "Across",
    "AdoptionPlan",
    "AdoptionRun",
    "AsText",
    "Diagnosis",
    "Drift",
    "DropPlan",
    "DropResult",
    "FleetInspection",
    "HandOverPlan",
    "HandOverRun",
    "Manifest",
    "MovedTenant",
    "OffboardPlan",
    "Offboarded",
    "ProvisionPlan",
    "Provisioned",
    "ReleasePlan",
    "ReleaseRun",
    "RepairPlan",
    "RepairRun",
    "RestorePlan",
    "RestoreRun",
    "Snapshot",
    "TenantDetail",
    "TenantInspection",
    "across",
    "adopt_tenants",
    "compare_snapshots",
    "compare_tenants",
    "count_rows",
    "create_tenant",
    "describe_figures",
    "drop_tenant",
    "ensure_registry",
    "ensure_template",
    "examine",
    "export_tenant",
    "find_drift",
    "find_tenants",
    "get_tenant",
    "hand_over",
    "import_beside",
    "import_tenant",
    "inspect_tenant",
    "inspect_tenants",
    "lint_repair",
    "list_tenants",
    "look_up",
    "offboard_tenant",
    "plan_adoption",
    "plan_drop",
    "plan_hand_over",
    "plan_offboarding",
    "plan_provision",
    "plan_release",
    "plan_repair",
    "plan_restore",
    "provision_tenant",
    "read_figures",
    "read_manifest",
    "read_repair",
    "read_snapshot",
    "release_tenants",
    "rename_tenant",
    "restore_tenant",
    "run_repair",
    "set_status",
    "swap_in",
    "take_snapshot",
    "verify_export",
    "write_snapshot",
]


__getattr__ = import_late(__name__)
