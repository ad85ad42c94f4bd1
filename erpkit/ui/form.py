"""A form for a notebook's parameters, made from their declaration; a run does not see it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from erpkit.config import Settings
from erpkit.errors import ErpkitError
from erpkit.runs import Parameter, check_parameters, validate_parameters
from erpkit.ui.choices import Choices
from erpkit.ui.declaration import declared_parameters
from erpkit.ui.fields import Field, field_of
from erpkit.ui.lab import run_below_button
from erpkit.visible import visible_html
from erpkit.watching import is_a_notebook_watched

if TYPE_CHECKING:
    from ipywidgets import VBox

__all__ = ["Form", "form"]

_ALERT = '<span role="alert" style="color:var(--jp-error-color1,#dc2626)">{}</span>'


def form(namespace: dict[str, Any]) -> Form | None:
    """Show a form that sets the parameters of this notebook; call it as `ui.form(globals())`, below the parameters cell.

    Its fields come from the parameters cell: type, default and help. Those named `tenant`, `tenants`, `canaries`, `topic`,
    `handler`, `handlers`, `side_effects`, `module`, `modules` and `impact` are picked from what there really is. What is
    set is checked as a run checks it; the cells below see it when they are run. In a run there is no form, and the parameters
    are checked. Raises UsageError for one that is wrong.
    """
    if is_a_notebook_watched():
        return Form(namespace)
    check_parameters(namespace)
    return None


class Form:
    """The fields by name, and in `problem` the one line that says what is wrong with the last value."""

    def __init__(self, namespace: dict[str, Any]) -> None:
        import ipywidgets  # noqa: PLC0415 - slow to import

        check_parameters(namespace)
        self._namespace, self._wrong = namespace, dict[str, str]()
        self._parameters = declared_parameters(namespace)
        found = Choices(Settings.from_env())
        self.fields = {
            parameter.name: field_of(parameter, namespace[parameter.name], found.of(parameter))
            for parameter in self._parameters
        }
        self.problem = ipywidgets.HTML()
        self.run_below = run_below_button()
        for field in self.fields.values():
            field.input.observe(partial(self._set, field), names="value")
        notes = [ipywidgets.HTML(f"<em>{visible_html(note)}</em>") for note in found.notes]
        rows = [_row(field) for field in self.fields.values()]
        self.widget = ipywidgets.VBox([*rows, *notes, self.problem, self.run_below])

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.widget._repr_mimebundle_(**options) | {"text/plain": "the parameters as a form"}

    def _set(self, field: Field, _change: object = None) -> None:
        """Give the notebook's variable the value of a field; a wrong one leaves it as it was, and is told."""
        name = field.parameter.name
        self._wrong.pop(name, None)
        try:
            field.check()
            values = {name: self._namespace[name]} | validate_parameters(self._parameters, {name: field.value})
            checked = {**values, "__annotations__": {name: field.parameter.type}}
            check_parameters(checked)  # of text it makes a date again
            self._namespace[name] = checked[name]
        except ErpkitError as error:
            self._wrong[name] = str(error)
        self.problem.value = "".join(_ALERT.format(visible_html(line)) for line in list(self._wrong.values())[:1])
        self.run_below.disabled = bool(self._wrong)


def _row(field: Field) -> VBox:
    import ipywidgets  # noqa: PLC0415

    help_ = ipywidgets.HTML(f'<span style="opacity:.75">{visible_html(_help(field.parameter))}</span>')
    line = ipywidgets.HBox(
        [field.entry or field.input, help_], layout={"flex_flow": "row wrap", "align_items": "center"}
    )
    return ipywidgets.VBox([line, field.below] if field.below else [line])


def _help(parameter: Parameter) -> str:
    return parameter.help or parameter.annotation
