"""Tenants: the registry, their lives from creation to removal, inspecting all, and drift."""

from __future__ import annotations

from typing import TYPE_CHECKING

from erpkit.late import import_late

if TYPE_CHECKING:
    from erpkit.database import ANALYSTS
    from erpkit.tenants.adoption import AdoptionPlan, AdoptionRun, adopt_tenants, plan_adoption
    from erpkit.tenants.detail import TenantDetail, inspect_tenant
    from erpkit.tenants.doctor import Ability, Diagnosis, examine
    from erpkit.tenants.drift import Difference, Drift, compare_tenants, drift_script, find_drift
    from erpkit.tenants.exports import export_tenant
    from erpkit.tenants.fleet import FleetInspection
    from erpkit.tenants.fleet_query import Across, across
    from erpkit.tenants.frames import AsText
    from erpkit.tenants.health import count_rows
    from erpkit.tenants.imports import import_tenant
    from erpkit.tenants.inspection import TenantInspection, inspect_tenants
    from erpkit.tenants.lifecycle import (
        Mention,
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
    from erpkit.tenants.repair import (
        RepairPlan,
        RepairRun,
        RepairStep,
        lint_repair,
        plan_repair,
        read_repair,
        run_repair,
    )
    from erpkit.tenants.restore import (
        Beside,
        LogChange,
        Restored,
        RestorePlan,
        RestoreRun,
        import_beside,
        plan_restore,
        restore_tenant,
        swap_in,
    )
    from erpkit.tenants.snapshot import (
        Growth,
        Snapshot,
        compare_snapshots,
        describe_figures,
        describe_inspections,
        read_figures,
        read_snapshot,
        take_snapshot,
        write_snapshot,
    )

__all__ = [
    "ANALYSTS",
    "Ability",
    "Across",
    "AdoptionPlan",
    "AdoptionRun",
    "AsText",
    "Beside",
    "Diagnosis",
    "Difference",
    "Drift",
    "DropPlan",
    "DropResult",
    "FleetInspection",
    "Growth",
    "HandOverPlan",
    "HandOverRun",
    "LogChange",
    "Manifest",
    "Mention",
    "MovedTenant",
    "OffboardPlan",
    "Offboarded",
    "ProvisionPlan",
    "Provisioned",
    "ReleasePlan",
    "ReleaseRun",
    "RepairPlan",
    "RepairRun",
    "RepairStep",
    "RestorePlan",
    "RestoreRun",
    "Restored",
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
    "describe_inspections",
    "drift_script",
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
