"""The front door: `erpkit.open()` gives one object from which everything else is reached."""

from __future__ import annotations

from typing import TYPE_CHECKING

from erpkit.late import import_late

if TYPE_CHECKING:
    from erpkit.erp.door import Erp, open
    from erpkit.erp.installation import Installation
    from erpkit.erp.rehearsal import Rehearsal

__all__ = ["Erp", "Installation", "Rehearsal", "open"]

__getattr__ = import_late(__name__)
