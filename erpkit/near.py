"""What was probably meant by a name that is unknown."""

from __future__ import annotations

from collections.abc import Iterable


def find_near(name: str, known: Iterable[str], most: int = 3, *, cutoff: float = 0.6) -> list[str]:
    """Return the known names that are most like an unknown one; else those that contain it. Pure."""
    import difflib  # noqa: PLC0415 - only on an error

    names = sorted(set(known))
    lower = {one.lower(): one for one in reversed(names)}
    near = [lower[one] for one in difflib.get_close_matches(name.lower(), list(lower), n=most, cutoff=cutoff)]
    return near or ([one for one in names if len(name) > 2 and name.lower() in one.lower()][:most])


def did_you_mean(name: str, known: Iterable[str], *, none: str = "there are none", listed: int = 20) -> str:
    """Return the end of a sentence about an unknown name: `did you mean acme?`, else which names there are (`listed` of them). Pure."""
    names = list(dict.fromkeys(known))
    if near := find_near(name, names):
        return f"did you mean {' or '.join(near)}?"
    if not names:
        return none
    return f"there are {', '.join(names[:listed])}{', …' if len(names) > listed else ''}"
