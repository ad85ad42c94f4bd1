"""Records as tables: DataFrames that notebooks show and analysts go on with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas

__all__ = ["frame_of"]


def frame_of(lines: Sequence[dict[str, object]], numbers: Sequence[str] = ()) -> pandas.DataFrame:
    """Make a DataFrame; `numbers` are columns of text to be shown as numbers are."""
    import pandas  # noqa: PLC0415 - slow to import

    frame = pandas.DataFrame(lines)
    frame.attrs["numbers"] = list(numbers)
    return frame
