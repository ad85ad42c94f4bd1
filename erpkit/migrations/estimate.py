"""How long a plan is going to take, from how long its migrations took before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from erpkit.migrations.parser import Direction
from erpkit.migrations.plan import MigrationPlan

__all__ = ["Estimate", "estimate_plan"]


@dataclass(frozen=True)
class Estimate:
    """`seconds` for the migrations that ran somewhere before; `unknown` are those that never did, by name."""

    seconds: float
    unknown: tuple[str, ...]

    def __str__(self) -> str:
        if not self.unknown:
            return f"about {_span(self.seconds)}"
        never = f"{', '.join(self.unknown)} never ran before"
        return f"about {_span(self.seconds)} for the rest; {never}" if self.seconds else f"no estimate: {never}"


def estimate_plan(
    plan: MigrationPlan, milliseconds: Mapping[tuple[str, int, Direction], float], workers: int = 3
) -> Estimate:
    """Add up the medians of earlier runs, wave by wave: the tenants of a wave share the workers."""
    seconds = 0.0
    for wave in plan.waves:
        times = [
            sum(milliseconds.get((m.module, m.version, direction), 0.0) for m, direction in tenant.steps)
            for tenant in wave.tenants
        ]
        seconds += max(sum(times) / workers, max(times)) / 1000
    steps = dict.fromkeys(step for tenant in plan.tenants for step in tenant.steps)
    unknown = dict.fromkeys(m.name for m, direction in steps if (m.module, m.version, direction) not in milliseconds)
    return Estimate(seconds, tuple(unknown))


def _span(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
