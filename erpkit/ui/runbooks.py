"""What people look at in the runbooks: who dispatches, and dependencies that nobody declared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from erpkit.modules.undeclared import Undeclared
from erpkit.ui.tables import frame_of

if TYPE_CHECKING:
    import pandas

__all__ = ["undeclared_table"]


def undeclared_table(undeclared: Sequence[Undeclared]) -> pandas.DataFrame:
    """One line a piece of evidence that a module needs another one."""
    return frame_of(
        [
            {"module": one.module, "needs": one.needs, "evidence": evidence}
            for one in undeclared
            for evidence in one.evidence
        ]
    )
