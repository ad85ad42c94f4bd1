"""What the door and its parts have in common: what tab completion shows, and a `repr` that reads nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

_FEW = 6  # names in a `repr`


class Part:
    """A part of the door. `_inner` names what erpkit itself and developers use: tab completion leaves it out.

    `str()`, and with it `print`, a notebook and IPython, show the part, for which the database is read. `repr()` reads nothing:
    Python also calls it where a person did not ask for the part, as for `erp.close` without parentheses.
    """

    _inner: ClassVar[frozenset[str]] = frozenset()

    def __dir__(self) -> Iterable[str]:
        return set(super().__dir__()) - self._inner

    def __repr__(self) -> str:
        names = sorted(name for name in dir(self) if not name.startswith("_"))
        more = f" and {len(names) - _FEW:,} more" if len(names) > _FEW else ""
        return f"<{type(self).__name__}: {', '.join(names[:_FEW])}{more}>"

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """Show the part in IPython, where it is the result of a line, and never inside of something else."""
        printer.text(repr(self) if printer.stack[1:] else str(self))
