"""What is wrong with a value in a form, in words. Pure, besides looking whether a file is there."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from erpkit.errors import UsageError
from erpkit.runs import Parameter, validate_parameters
from erpkit.tenants.registry import check_slug
from erpkit.ui.choices import Offer

_NEEDED = {"file": "name a file", "handler": "choose a handler", "tenant": "choose a tenant"}
_WORDS = {
    "AwareDatetime": "a time", "bool": "yes or no", "date": "a date", "datetime": "a time", "Decimal": "a number",
    "dict": 'a JSON object, such as {"a": 1}', "float": "a number", "int": "a whole number", "list": "a list",
}  # fmt: skip


def find_problem(parameter: Parameter, value: Any, offer: Offer | None, *, is_pattern: bool = False) -> str:
    """Return in words what is wrong with a value that was typed or chosen; empty if nothing is."""
    try:
        plain = validate_parameters([parameter], {parameter.name: value})[parameter.name]
    except UsageError as error:
        return _in_words(parameter, value, str(error))
    names = plain if isinstance(plain, list) else [plain] if isinstance(plain, str) and plain else []
    is_offered = offer is not None and (not is_pattern or parameter.name == "topic")
    if is_offered and offer and (problem := next(filter(None, map(offer.problem, names)), "")):
        return problem
    check = _CHECKS.get(parameter.name)
    return check(plain) if check and plain not in (None, "", []) and not isinstance(plain, bool) else ""


def find_conflicts(values: Mapping[str, Any]) -> dict[str, str]:
    """Return what is wrong with values together, by the parameter to change."""
    found = {}
    for first, last, what in (("first_offset", "last_offset", "first offset"), ("since", "until", "time in since")):
        low, high = values.get(first), values.get(last)
        if low is None or high is None or isinstance(low, str):
            continue
        if low > high or (low == high and first == "since"):
            found[last] = f"no event is chosen: this is before the {what}, {low}"
    if values.get("mend_now") and not str(values.get("mend", "")).strip():
        found["mend_now"] = "there is nothing to run: write the SQL into mend"
    return found


def find_missing(values: Mapping[str, Any], needed: Collection[str]) -> dict[str, str]:
    """Return the parameters that a notebook cannot do without and that are empty; a rehearsal needs none of them."""
    if values.get("rehearse"):
        return {}
    return {name: f"needed: {_NEEDED.get(name, 'fill it in')}" for name in sorted(needed) if not values.get(name)}


def _in_words(parameter: Parameter, value: Any, message: str) -> str:
    if "is not of type" not in message:
        return message.removeprefix(f"parameter {parameter.name}").removeprefix(":").removeprefix(" = ").strip()
    kind = next((_WORDS[word] for word in re.findall(r"\w+", parameter.annotation) if word in _WORDS), "")
    return f"{str(value)!r} is not {kind or f'of type {parameter.annotation}'}"


def _at_least(least: float) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        return f"{value} is too small: the least is {least:g}" if float(value) < least else ""

    return check


def _above_zero(value: Any) -> str:
    return f"{value} would never end: give a number above 0" if float(value) <= 0 else ""


def _share(value: Any) -> str:
    return "" if 0 <= float(value) <= 1 else f"{value} is not a share: give a number from 0 to 1, such as 0.1"


def _ids(value: Any) -> str:
    for text in [value] if isinstance(value, str) else value:
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


def _file(value: str) -> str:
    return "" if Path(value).expanduser().is_file() else f"there is no file {value}"


def _new_file(value: str) -> str:
    return _folder(str(Path(value).expanduser().parent))


def _send_to(value: str) -> str:
    kind, colon, subject = value.partition(":")
    is_right = kind == "broker" and (subject or not colon)
    return "" if is_right else f"{value!r} is neither broker nor broker:SUBJECT, such as broker:erp.replayed"


def _mend(value: str) -> str:
    wrong = [name for name in re.findall(r"\{\w+\}", value) if name != "{schema}"]
    if wrong:
        return f"{wrong[0]} stands for nothing: did you mean {{schema}}?"
    return "" if "{schema}" in value else "it names no {schema}, so it would do the same for each tenant"


def _folder(value: str) -> str:
    return "" if Path(value).expanduser().is_dir() else f"there is no folder {value}"


_CHECKS: dict[str, Callable[[Any], str]] = {
    "days": _at_least(1), "first_offset": _at_least(0), "last_offset": _at_least(0), "limit": _at_least(1),
    "workers": _at_least(1), "long": _at_least(0), "max_age": _at_least(0), "max_lag": _at_least(0),
    "lock_timeout": _above_zero, "rate": _above_zero, "statement_timeout": _at_least(0), "threshold": _share,
    "resume": _ids, "uuids": _ids, "slug": _slug, "file": _file, "folder": _folder, "health_file": _file,
    "export_to": _new_file, "snapshot": _new_file, "send_to": _send_to, "mend": _mend,
}  # fmt: skip
