"""The front door: `erpkit.open()` gives one object from which everything else is reached."""

from erpkit.erp.door import Erp, open
from erpkit.erp.installation import Installation
from erpkit.erp.rehearsal import Rehearsal

__all__ = ["Erp", "Installation", "Rehearsal", "open"]
