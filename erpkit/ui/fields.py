"""The field of a form for one parameter, as its type asks for it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, Literal, get_args, get_origin

from erpkit.runs import Parameter
from erpkit.ui.checks import find_problem
from erpkit.ui.choices import Offer
from erpkit.visible import visible_html

_LABEL = "min(11em, 24vw)"
_INDENT = f"0 0 0 calc({_LABEL} + 8px)"  # under a field, beside its label
_ALERT = f'<span role="alert" style="color:var(--jp-error-color1,#dc2626);display:block;margin-left:calc({_LABEL} + 8px)">{{}}</span>'
_TYPED = ("topic", "modules", "impact", "table", "notebook")  # what is chosen for these may be changed by hand

_TYPED_TIME = re.compile(
    r"(,? with time zone)?: \d{4}-\d\d-\d\d\S*"
)  # how a time is typed, which a picker does not take


@dataclass(frozen=True)
class Field:
    """The input for one parameter: `input` has a trait `value`, which `read` converts to the parameter's value.

    `entry` is what is typed into or chosen from, and `below` what stands under it; `error` says what is wrong with the value.
    """

    parameter: Parameter
    input: Any
    read: Callable[[Any], Any] = lambda value: value
    entry: Any = None
    below: Any = None
    offer: Offer | None = None
    error: Any = field(default_factory=lambda: _html())

    @property
    def value(self) -> Any:
        """What is in the field now, not yet checked."""
        return self.read(self.input.value)

    @property
    def problem(self) -> str:
        """What is wrong with the value, in words; empty if nothing is."""
        return find_problem(self.parameter, self.value, self.offer)

    def tell(self, problem: str) -> None:
        """Show at the field what is wrong with it; take the message away for an empty one."""
        self.error.value = _ALERT.format(visible_html(problem)) if problem else ""
        self.error.layout.display = None if problem else "none"

    @property
    def row(self) -> Any:
        """The field with its help, and what is wrong with it below."""
        import ipywidgets  # noqa: PLC0415

        help_ = _html(f'<span style="opacity:.75">{visible_html(_help(self.parameter))}</span>')
        line = ipywidgets.HBox(
            [self.entry or self.input, help_], layout={"flex_flow": "row wrap", "align_items": "center"}
        )
        return ipywidgets.VBox([line, *([self.below] if self.below else ()), self.error])


def field_of(parameter: Parameter, value: Any, offer: Offer | None) -> Field:
    """Return a field that shows `value`: a picker where there is an `offer`, else what the parameter's type asks for."""
    kind, is_optional = _without_none(parameter.type)
    choices = None if offer is None else offer.names
    if get_origin(kind) is list and get_args(kind) == (str,):
        return _names(parameter, value, offer)
    read = _none_if_empty if is_optional else _same
    if choices is not None and parameter.name not in _TYPED and parameter.default != "*":
        return Field(parameter, _dropdown(parameter, ["", *choices, value or ""], value or ""), read, offer=offer)
    typed = _typed(parameter, kind, is_optional, value)
    if typed is not None:
        return Field(parameter, typed, below=_zone(typed) if _is_time(kind) else None)
    return Field(parameter, _text(parameter, value, choices, "none" if is_optional else ""), read, offer=offer)


def _zone(picker: Any) -> Any:
    """Return a line that says which time zone is meant, and what the time is in UTC."""
    note = _html()

    def tell(_change: object = None) -> None:
        when = f"{picker.value.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if picker.value else ""
        note.value = f'<span style="opacity:.75">in this browser\'s time zone{when and f": {when}"}</span>'

    picker.observe(tell, names="value")
    tell()
    note.layout.margin = _INDENT
    return note


def _is_time(kind: Any) -> bool:
    return kind is datetime or getattr(kind, "__name__", "") == "AwareDatetime"


def _help(parameter: Parameter) -> str:
    """Return the help as it is for a form, where None is an empty field."""
    help_ = re.sub(r"\bNone:", "empty:", parameter.help) or parameter.annotation
    return _TYPED_TIME.sub("", help_) if _is_time(_without_none(parameter.type)[0]) else help_


def _html(text: str = "") -> Any:
    import ipywidgets  # noqa: PLC0415 - slow to import

    return ipywidgets.HTML(text)


def _typed(parameter: Parameter, kind: Any, is_optional: bool, value: Any) -> Any:
    """Return the entry for a type that has one of its own, or None."""
    import ipywidgets as widgets  # noqa: PLC0415 - slow to import

    if get_origin(kind) is Literal:
        return _dropdown(parameter, [*([None] if is_optional else []), *get_args(kind)], value)
    if kind is bool:
        if is_optional:
            return _dropdown(parameter, [None, True, False], value)
        return widgets.Checkbox(value=value, indent=True, **_look(parameter))
    if _is_time(kind):
        return widgets.DatetimePicker(value=value and value.astimezone(), **_look(parameter))
    if kind is date:
        return widgets.DatePicker(value=value, **_look(parameter))
    number = {int: widgets.IntText, float: widgets.FloatText}.get(kind)
    return number(value=value, **_look(parameter)) if number and not is_optional else None


def _names(parameter: Parameter, value: Sequence[str], offer: Offer | None) -> Field:
    """Return a row of names, each with a cross; a chosen or typed one is added."""
    import ipywidgets as widgets  # noqa: PLC0415

    tags = widgets.TagsInput(value=list(value), allow_duplicates=False, layout={"margin": _INDENT})
    entry = _text(parameter, "", offer.names if offer else (), "add one")

    def add(change: Any) -> None:
        if change["new"].strip():
            tags.value = [*dict.fromkeys([*tags.value, change["new"].strip()])]
            entry.value = ""

    def hide(_change: object = None) -> None:
        tags.layout.display = None if tags.value else "none"

    entry.observe(add, names="value")
    tags.observe(hide, names="value")
    hide()
    return Field(parameter, tags, list, entry, tags, offer)


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
