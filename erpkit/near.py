"""What was probably meant by a name that is unknown."""

from __future__ import annotations

from collections.abc import Iterable

_AS_GOOD = 0.12  # difference of likeness, of 1 at most; what is less like the name than that was not meant
_SHORT = 3  # characters; a shorter name is part of too many others


def find_near(name: str, known: Iterable[str], most: int = 3, *, cutoff: float = 0.65) -> list[str]:
    """Return the known names that are most like an unknown one, else those that contain it. Pure."""
    from difflib import SequenceMatcher  # noqa: PLC0415 - only on an error

    names = sorted(set(known))
    likeness = {one: SequenceMatcher(None, name.lower(), one.lower()).ratio() for one in names}
    least = max([cutoff, *(value - _AS_GOOD for value in likeness.values())])
    near = sorted((one for one in names if likeness[one] >= least), key=lambda one: -likeness[one])
    parts = [one for one in names if len(name) >= _SHORT and name.lower() in one.lower()]
    return (near or parts)[:most]


def did_you_mean(name: str, known: Iterable[str], *, none: str = "there are none", listed: int = 20) -> str:
    """Return the end of a sentence about an unknown name: `did you mean acme?`, else which names there are.

    `none` is said where there are none, and `listed` is how many are named. Pure.
    """
    names = list(dict.fromkeys(known))
    if near := find_near(name, names):
        return f"did you mean {' or '.join(near)}?"
    if not names:
        return none
    return f"there are {', '.join(names[:listed])}{', …' if len(names) > listed else ''}"
