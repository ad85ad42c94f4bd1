"""How papermill writes a parameter into a notebook: what has no literal as the expression that makes it."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any

from papermill.translators import PythonTranslator, papermill_translators

LANGUAGE = "erpkit"  # what papermill finds the translator by


class _Translator(PythonTranslator):  # type: ignore[misc]
    """Writes dates, times and decimals as such; the notebook need not have imported anything."""

    @classmethod
    def translate(cls, value: Any) -> str:
        """Return the source of a value."""
        if isinstance(value, datetime):
            return f'__import__("datetime").datetime.fromisoformat("{value.isoformat()}")'
        if isinstance(value, date):
            return f'__import__("datetime").date.fromisoformat("{value.isoformat()}")'
        if isinstance(value, Decimal):
            return f'__import__("decimal").Decimal("{value}")'
        return str(super().translate(value))


papermill_translators.register(LANGUAGE, _Translator)
