"""The field of a form for one parameter, as its type asks for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal, get_args, get_origin

from erpkit.errors import UsageError
from erpkit.near import find_near
from erpkit.runs import Parameter

_LABEL = "11em"
_PATTERNS = ("topic", "modules", "impact")  # what is chosen for these may be changed by hand


@dataclass(frozen=True)
class Field:
    """The input for one parameter: `input` has a trait `value`, which `read` converts to the parameter's value.

    `entry` is what is typed into or chosen from, and `below` what stands under it. Where there are `choices`, the value is to
    be of them.
    """

    parameter: Parameter
    input: Any
    read: Callable[[Any], Any] = lambda value: value
    entry: Any = None
    below: Any = None
    choices: Sequence[str] = ()

    @property
    def value(self) -> Any:
        """What is in the field now, not yet checked."""
        return self.read(self.input.value)

    def check(self) -> None:
        """Raise UsageError for a name that is not one of the choices."""
        for name in self.value if self.choices else ():
            if name not in self.choices:
                near = find_near(name, self.choices, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise UsageError(f"{self.parameter.name}: there is no {name!r}{hint}")


def field_of(parameter: Parameter, value: Any, choices: Sequence[str] | None) -> Field:
    """Return a field that shows `value`: a picker where there are `choices`, else what the parameter's type asks for."""
    kind, is_optional = _without_none(parameter.type)
    if get_origin(kind) is list and get_args(kind) == (str,):
        return _names(parameter, value, choices)
    read = _none_if_empty if is_optional else _same
    if choices is not None and parameter.name not in _PATTERNS:
        return Field(parameter, _dropdown(parameter, ["", *choices, value or ""], value or ""), read)
    typed = _typed(parameter, kind, is_optional, value)
    if typed is not None:
        return Field(parameter, typed)
    return Field(parameter, _text(parameter, value, choices, "none" if is_optional else ""), read)


def _typed(parameter: Parameter, kind: Any, is_optional: bool, value: Any) -> Any:
    """Return the entry for a type that has one of its own, or None."""
    import ipywidgets as widgets  # noqa: PLC0415 - slow to import

    if get_origin(kind) is Literal:
        return _dropdown(parameter, [*([None] if is_optional else []), *get_args(kind)], value)
    if kind is bool:
        if is_optional:
            return _dropdown(parameter, [None, True, False], value)
        return widgets.Checkbox(value=value, indent=True, **_look(parameter))
    if kind is datetime or getattr(kind, "__name__", "") == "AwareDatetime":
        return widgets.DatetimePicker(value=value and value.astimezone(), **_look(parameter))
    if kind is date:
        return widgets.DatePicker(value=value, **_look(parameter))
    number = {int: widgets.IntText, float: widgets.FloatText}.get(kind)
    return number(value=value, **_look(parameter)) if number and not is_optional else None


def _names(parameter: Parameter, value: Sequence[str], choices: Sequence[str] | None) -> Field:
    """Return a row of names, each with a cross; a chosen or typed one is added."""
    import ipywidgets as widgets  # noqa: PLC0415

    tags = widgets.TagsInput(
        value=list(value), allow_duplicates=False, layout={"margin": f"0 0 0 calc({_LABEL} + 8px)"}
    )
    entry = _text(parameter, "", choices or (), "add one")

    def add(change: Any) -> None:
        if change["new"].strip():
            tags.value = [*dict.fromkeys([*tags.value, change["new"].strip()])]
            entry.value = ""

    def hide(_change: object = None) -> None:
        tags.layout.display = None if tags.value else "none"

    entry.observe(add, names="value")
    tags.observe(hide, names="value")
    hide()
    return Field(parameter, tags, list, entry, tags, choices or ())


def _dropdown(parameter: Parameter, options: Sequence[Any], value: Any) -> Any:
    import ipywidgets  # noqa: PLC0415

    named = [("–" if option in (None, "") else str(option), option) for option in dict.fromkeys(options)]
    return ipywidgets.Dropdown(options=named, value=value, **_look(parameter))


def _text(parameter: Parameter, value: Any, choices: Sequence[str] | None, hint: str) -> Any:
    """Return a line to type into; with choices, it lists those that fit what is typed."""
    import ipywidgets as widgets  # noqa: PLC0415

    line = {"value": _shown(value), "placeholder": hint, "continuous_update": False, **_look(parameter)}
    return widgets.Combobox(options=list(choices), ensure_option=False, **line) if choices else widgets.Text(**line)


def _look(parameter: Parameter) -> dict[str, Any]:
    width = {"width": "30em", "max_width": "100%"}
    return {"description": parameter.name, "style": {"description_width": _LABEL}, "layout": width}


def _without_none(kind: Any) -> tuple[Any, bool]:
    """Take `| None` off a type, and tell whether it was there."""
    parts = [part for part in get_args(kind) if part is not type(None)]
    is_optional = type(None) in get_args(kind)
    return (parts[0] if is_optional and len(parts) == 1 else kind), is_optional


def _same(value: Any) -> Any:
    return value


def _none_if_empty(value: str) -> str | None:
    return value.strip() or None


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return json.dumps(value, default=str, ensure_ascii=False) if isinstance(value, list | dict) else str(value)
