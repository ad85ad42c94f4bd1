"""What is wrong with a value in a form, in words. Pure, besides looking whether a file is there."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from fnmatch import fnmatchcase
from glob import glob
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from uuid import UUID

from erpkit.config import Settings
from erpkit.database.target import check_conninfo
from erpkit.errors import UsageError
from erpkit.events import Selection
from erpkit.events.replay.request import ReplayRequest
from erpkit.modules import Layers
from erpkit.near import find_near
from erpkit.runs import Parameter, validate_parameters
from erpkit.tenants.registry import check_slug
from erpkit.ui.choices import Offer

_WORDS = {
    "AwareDatetime": "a time", "bool": "yes or no", "date": "a date", "datetime": "a time", "Decimal": "a number",
    "dict": 'a JSON object, such as {"a": 1}', "float": "a number", "int": "a whole number", "list": "a list",
}  # fmt: skip


def find_problem(parameter: Parameter, value: Any, offer: Offer | None) -> str:
    """Return in words what is wrong with a value that was typed or chosen; empty if nothing is."""
    try:
        plain = validate_parameters([parameter], {parameter.name: value})[parameter.name]
    except UsageError as error:
        return _in_words(parameter, value, str(error))
    if plain in ("nan", "inf", "-inf") and "float" in parameter.annotation:  # as JSON has them
        plain = float(plain)
    if isinstance(plain, int | float) and not isinstance(plain, bool) and parameter.name in _NUMBERS:
        return _NUMBERS[parameter.name](plain)
    texts = [one for one in (plain if isinstance(plain, list) else [plain]) if isinstance(one, str) and one]
    judges = [_TEXTS[parameter.name]] if parameter.name in _TEXTS else []
    if offer is not None and parameter.name != "modules":
        judges.append(offer.likely_problem if parameter.name in _FROM_ELSEWHERE else offer.problem)
    return next((problem for judge in judges for text in texts if (problem := judge(text))), "")


def find_conflicts(values: Mapping[str, Any]) -> dict[str, str]:
    """Return what is wrong with values together, by the parameter to change."""
    found = _find_empty_windows(values)
    ways = [name for name in ("send_to", "watermill", "resume") if values.get(name)]
    found |= dict.fromkeys(ways[1:], f"{''.join(ways[:1])} is set, and one excludes the other")
    if "send_to" in values and values.get("again") and not values["send_to"]:
        found["again"] = "this is for a replay to a broker: say in send_to where to, or take this back"
    if values.get("send_to"):
        both = [name for name in ("handlers", "side_effects") if values.get(name)]
        found |= dict.fromkeys(both, "what goes to a broker goes to no handler: leave this empty")
    if tenants := values.get("tenants"):
        others = [one for one in values.get("canaries", ()) if not any(fnmatchcase(one, tenant) for tenant in tenants)]
        found |= {"canaries": f"not among the tenants: {', '.join(others)}"} if others else {}
    if values.get("rehearse") is False:
        needed = next((name for name in ("file", "tenant") if name in values), "")
        found |= {needed: "this is needed where nothing is rehearsed"} if needed and not values[needed] else {}
    return found


def find_excused(values: Mapping[str, Any], wrong: Collection[str]) -> set[str]:
    """Return which of the `wrong` values are right, as another one says where they come from."""
    excused = {"topic", "uuids", "correlation_id"} if values.get("watermill") else set()  # these are Watermill's own
    if isinstance(values.get("modules"), str) and values["modules"]:
        excused |= {"cut", "impact"}  # of modules that are not read yet
    if values.get("database"):
        excused |= {"notebook"}
    if values.get("since") and values.get("since") == values.get("snapshot"):
        excused |= {"since"}  # the first inspection of a schedule makes the file
    return excused & set(wrong)


def _find_empty_windows(values: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for first, last, what in (("first_offset", "last_offset", "first offset"), ("since", "until", "time in since")):
        low, high = values.get(first), values.get(last)
        if low is None or high is None or isinstance(low, str):
            continue
        if low > high or (low == high and first == "since"):
            found[last] = f"no event is chosen: this is before the {what}, {low}"
    return found


def _in_words(parameter: Parameter, value: Any, message: str) -> str:
    if "is not of type" not in message:
        return message.removeprefix(f"parameter {parameter.name}").removeprefix(":").removeprefix(" = ").strip()
    kind = next((_WORDS[word] for word in re.findall(r"\w+", parameter.annotation) if word in _WORDS), "")
    return f"{str(value)!r} is not {kind or f'of type {parameter.annotation}'}"


def _from(least: float, most: float) -> Callable[[float], str]:
    def check(value: float) -> str:
        if value > most:
            return f"{value} is too large: the most is {most:,}"
        return "" if value >= least else f"{value} is too small: the least is {least:g}"

    return check


def _above_zero(value: float) -> str:
    return "" if 0 < value < math.inf else f"{value} would never end: give a number above 0"


def _lock(value: float) -> str:
    return _above_zero(value) or _from(0, _SECONDS)(value)


def _share(value: float) -> str:
    return "" if 0 <= value <= 1 else f"{value} is not a share: give a number from 0 to 1, such as 0.1"


def _id(text: str) -> str:
    try:
        UUID(text)
    except ValueError:
        return f"{text!r} is not an id, such as 0198c0de-7a1b-7c3d-8e5f-0123456789ab"
    return ""


def _slug(value: str) -> str:
    try:
        check_slug(value)
    except UsageError as error:
        meant = re.sub("[^a-z0-9]+", "_", value.lower()).strip("_")
        return f"{error}{f'; did you mean {meant}?' if meant[:1].isalpha() and meant != value else ''}"
    return ""


def _story(value: str) -> str:
    """Tell what is wrong with a correlation id: most are UUIDs, and those of other programs are any text."""
    return _id(value) if re.fullmatch(r"[0-9a-fA-F-]*|.*\s.*", value) else ""


def _target(value: str) -> str:
    try:
        ReplayRequest(Selection(), send_to=value)
        is_none = Settings.from_env().broker.startswith("memory:")
    except UsageError as error:
        return f"{error}{_meant(value.partition(':')[0], ['broker'])}"
    return "no broker is configured: set ERPKIT_BROKER to nats://host:4222, say" if is_none else ""


def _database(value: str) -> str:
    if value.startswith("env:"):
        name = value.removeprefix("env:")
        return "" if os.environ.get(name) else f"the variable {name} is not set{_meant(name, os.environ)}"
    try:
        check_conninfo(value, "this")
    except UsageError as error:
        return f"{error}{f', such as service={value}' if value.isidentifier() else ''}, or env:NAME for a variable"
    return ""


def _modules(value: str) -> str:
    known = [group for group in entry_points().groups if group.startswith("erpkit.")]
    if value in entry_points().groups or glob(str(Path(value).expanduser())):  # noqa: PTH207 - a whole path may be a pattern
        return ""
    return f"there is no group of entry points, file or folder {value}{_meant(value, known)}"


def _layers(value: str) -> str:
    try:
        Layers.parse(value)
    except UsageError as error:
        return str(error)
    return "" if ">" in value else "one layer alone orders nothing: write at least two, as in billing > sales"


def _edge(text: str) -> str:
    source, found, target = (part.strip() for part in text.partition("->"))
    return "" if source and found and target else f"{text!r} is not an edge: write it as sales->catalog"


def _mend(value: str) -> str:
    for name in re.findall(r"\{(\w+)\}", value):
        if name != "schema" and find_near(name, ["schema"]):
            return f"{{{name}}} stands for nothing: did you mean {{schema}}?"
    return ""


def _file(value: str) -> str:
    path = Path(value).expanduser()
    if path.is_file():
        return ""
    beside = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
    return f"there is no file {value}{_meant(path.name, beside)}"


def _new_file(value: str) -> str:
    path = Path(value).expanduser()
    return f"{value} is a folder: give a file in it" if path.is_dir() else _folder(str(path.parent))


def _folder(value: str) -> str:
    return "" if Path(value).expanduser().is_dir() else f"there is no folder {value}"


def _meant(name: str, known: Iterable[str]) -> str:
    near = find_near(name, known)
    return f": did you mean {' or '.join(near)}?" if near else ""


def _look_or_time(value: str) -> str:
    """Tell what is wrong with `since`: a file of an earlier inspection, or a time, whose type was checked."""
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return _file(value)
    return ""


_SECONDS = 2_147_483  # the most that PostgreSQL takes for a time limit, as milliseconds
_OFFSET = 2**63 - 1
_FROM_ELSEWHERE = frozenset({"cut", "impact"})  # a module of these may be one that is needed, and is not there
_NUMBERS: dict[str, Callable[[float], str]] = {
    "days": _from(1, 36_500), "first_offset": _from(0, _OFFSET), "last_offset": _from(0, _OFFSET), "limit": _from(1, 2**31),
    "lock_timeout": _lock, "long": _from(0, _SECONDS), "max_age": _from(0, _SECONDS), "max_lag": _from(0, _OFFSET),
    "rate": _above_zero, "statement_timeout": _from(0, _SECONDS), "threshold": _share, "workers": _from(1, 1000),
}  # fmt: skip
_TEXTS: dict[str, Callable[[str], str]] = {
    "correlation_id": _story, "cut": _edge, "database": _database, "export_to": _new_file, "file": _file, "folder": _folder,
    "health_file": _file, "layers": _layers, "mend": _mend, "modules": _modules, "resume": _id, "send_to": _target,
    "since": _look_or_time, "slug": _slug, "snapshot": _new_file, "uuids": _id,
}  # fmt: skip
