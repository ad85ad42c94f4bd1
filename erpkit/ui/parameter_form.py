"""A form for a notebook's parameters, made from their declaration; a run does not see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from erpkit.config import Settings
from erpkit.errors import UsageError
from erpkit.runs import Parameter, check_parameters, read_parameters, validate_parameters
from erpkit.runs.parameters import CONFIRMS, python_values
from erpkit.ui.checks import find_conflicts, find_excused
from erpkit.ui.choices import Choices, check_kinds
from erpkit.ui.fields import Field, field_of
from erpkit.ui.front import look_here, run_below_button
from erpkit.ui.runbook import fade_banner
from erpkit.ui.served import NEVER, link_with, read_link
from erpkit.visible import visible_html
from erpkit.watching import is_a_notebook_watched, is_restarted, is_served

_BY_BUTTON = frozenset({*CONFIRMS, "dry_run"})  # there is one way to apply: the id beside the button
_KEPT = "_erpkit_form"  # the variable that outlives Run All: by parameter, the cell's value and the form's


def declared_parameters(namespace: Mapping[str, Any]) -> list[Parameter]:
    """Return the parameters that a kernel's variables were declared as; `namespace` is the notebook's `globals()`.

    The parameters cell is the one in IPython's history that declares most of the annotated variables, its newest version.
    """
    names = {name for name in namespace.get("__annotations__", {}) if not name.startswith("_")}
    cells = [_read(source) for source in reversed(namespace.get("In", []))]
    cell = max(cells, key=lambda parameters: len(names & {parameter.name for parameter in parameters}), default=[])
    if not names & {parameter.name for parameter in cell}:
        return []
    return [parameter for parameter in cell if parameter.name in namespace]


def _read(source: str) -> Sequence[Parameter]:
    """Return what a cell declares with a type; nothing if it cannot be a parameters cell."""
    try:
        return [parameter for parameter in read_parameters(source) if parameter.is_checked]
    except UsageError:
        return []


def form(namespace: dict[str, Any], *, rare: Sequence[str] = (), **kinds: str) -> Form | None:
    """Show a form that sets the parameters of this notebook; call it as `ui.form(globals())`, below the parameters cell.

    Its fields come from the parameters cell: type, default and help; those named in `rare` are folded. Parameters named `tenant`,
    `tenants`, `canaries`, `topic`, `handler`, `handlers`, `side_effects`, `module`, `modules`, `impact`, `cut`, `table` and
    `notebook` are picked from what there really is; `kinds` narrows that, such as `tenant="inactive"`. What is set outlives Run
    All, until the cell itself says something else. `dry_run` and the ids of plans are left to the buttons of `ui.decide`. In a run
    there is no form, and the parameters are checked. Raises UsageError for one that is wrong.
    """
    if is_a_notebook_watched():
        look_here()
        return Form(namespace, rare, kinds)
    check_parameters(namespace)
    return None


class Form:
    """The fields by name, a line that sums up what is set, and the button that runs the cells below."""

    def __init__(
        self, namespace: dict[str, Any], rare: Sequence[str] = (), kinds: Mapping[str, str] | None = None
    ) -> None:
        import ipywidgets  # noqa: PLC0415 - slow to import

        check_kinds((kinds or {}).values())
        check_parameters(namespace)
        self._namespace, self._rare, self._kinds = namespace, frozenset(rare), kinds or {}
        declared = [one for one in declared_parameters(namespace) if one.name not in _BY_BUTTON]
        self._left_out = [one.name for one in declared if is_served() and one.name in NEVER]
        self._parameters = [one for one in declared if one.name not in self._left_out]
        self._kept: dict[str, tuple[Any, Any]] = namespace.setdefault(_KEPT, {})
        self._restore()
        if is_served():
            self._follow_link()
        self._found = Choices(Settings.from_env())
        self.summary = ipywidgets.HTML()
        self.run_below = ipywidgets.HTML() if is_served() else run_below_button("Run")
        self.reset_button = ipywidgets.Button(description="Reset", icon="undo", layout={"width": "max-content"})
        self.reset_button.on_click(lambda _: self.reset())
        self.widget = ipywidgets.VBox()
        self._show()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.widget._repr_mimebundle_(**options) | {"text/plain": "the parameters as a form"}

    @property
    def problems(self) -> dict[str, str]:
        """What is wrong with the fields now, in words, by name; the variables keep their last good values meanwhile."""
        wrong = {name: field.problem for name, field in self.fields.items()}
        if "slug" in wrong and self.fields["slug"].value in self._found.tenants.names:
            wrong["slug"] = f"there is a tenant {self.fields['slug'].value} already"
        excused = find_excused({name: field.value for name, field in self.fields.items()}, wrong)
        alone = {name: problem for name, problem in wrong.items() if problem and name not in excused}
        if alone:
            return alone
        return find_conflicts({name: _python_value(one.parameter, one.value) for name, one in self.fields.items()})

    def reset(self) -> None:
        """Take back what was set here: the parameters cell's own values hold again."""
        for name, (base, _) in self._kept.items():
            self._namespace[name] = base
        self._kept.clear()
        self._show()
        self._tell(is_stale=True)

    def _restore(self) -> None:
        """Set again what the form set before the parameters cell was run anew; a value that the cell has since changed holds."""
        known = {parameter.name: parameter for parameter in self._parameters}
        for name, (base, value) in list(self._kept.items()):
            present = self._namespace.get(name)
            if name in known and present in (base, value) and _is_valid(known[name], value):
                self._namespace[name] = value
            else:
                del self._kept[name]

    def _follow_link(self) -> None:
        """Set what the address of the page asks for, as its Run button made it."""
        for name, value in read_link(self._parameters).items():
            self._kept[name] = (self._namespace[name], value)
            self._namespace[name] = value

    def _show(self) -> None:
        import ipywidgets  # noqa: PLC0415

        self.fields: dict[str, Field] = {
            one.name: field_of(one, self._namespace[one.name], self._found.of(one, self._kinds.get(one.name, "")))
            for one in self._parameters
        }
        for field in self.fields.values():
            field.input.observe(partial(self._set, field), names="value")
        notes = [ipywidgets.HTML(f"<em>{visible_html(note)}</em>") for note in self._notes()]
        line = ipywidgets.HBox([self.run_below, self.reset_button], layout={"flex_flow": "row wrap"})
        self.widget.children = [*self._rows(), *notes, line, self.summary]
        self._tell(is_stale=False)

    def _notes(self) -> list[str]:
        """Return what the fields do not say: what could not be read, and what is not set on a page."""
        elsewhere = f"Set in JupyterLab or by erpkit run, not on this page: {', '.join(self._left_out)}."
        return [*self._found.notes, *[elsewhere] * bool(self._left_out)]

    def _rows(self) -> list[Any]:
        """Return the rows of the fields, the rare ones folded unless one of them is set."""
        import ipywidgets  # noqa: PLC0415

        rare = [name for name in self.fields if name in self._rare]
        rows = [field.row for name, field in self.fields.items() if name not in rare]
        if not rare:
            return rows
        self.folded = ipywidgets.Accordion([ipywidgets.VBox([self.fields[name].row for name in rare])])
        self.folded.set_title(0, "More: " + ", ".join(rare))
        self.folded.selected_index = 0 if self._kept.keys() & set(rare) else None
        return [*rows, self.folded]

    def _set(self, field: Field, _change: object = None) -> None:
        """Set the variables to what is in the fields, once nothing is wrong with any of them."""
        problems = self.problems
        for name, other in self.fields.items():
            other.tell(problems.get(name, ""))
        if field.parameter.name not in problems:
            self._take(field)
        if not problems:  # a value that was in conflict with another one is right by now
            for other in self.fields.values():
                self._take(other)
        self._tell(is_stale=True)

    def _take(self, field: Field) -> None:
        name, present = field.parameter.name, self._namespace[field.parameter.name]
        value = _python_value(field.parameter, field.value)
        if value == present:
            return
        base = self._kept.get(name, (present, None))[0]
        self._namespace[name] = value
        if value == base:
            self._kept.pop(name, None)
        else:
            self._kept[name] = (base, value)

    def _tell(self, *, is_stale: bool) -> None:
        """Sum up below the form what is set, and whether what stands below is of these values."""
        wrong = [name for name, field in self.fields.items() if field.error.value]
        set_here = [f"{name} = {_shown(self._namespace[name])}" for name in self.fields if name in self._kept]
        parts = [f"On <strong>{visible_html(self._found.target)}</strong>."] if self._found.target else []
        parts.append(
            f"Set here: <strong>{visible_html('; '.join(set_here))}</strong>."
            if set_here
            else "All values are the notebook's own."
        )
        if is_restarted() and not set_here:
            parts.append("The kernel was restarted: what was set here before that is forgotten.")
        if wrong:
            parts.append(f"<strong>Not run: see {visible_html(', '.join(wrong))}.</strong>")
        elif is_stale:
            parts.append("<strong>The results below are from before this change: press Run.</strong>")
        self.summary.value = f'<div role="status" style="margin:.3em 0">{" ".join(parts)}</div>'
        self.reset_button.layout.display = None if set_here else "none"
        if is_stale and "rehearse" in self.fields:
            fade_banner(self._namespace["rehearse"])
        self._enable_run(not wrong)

    def _enable_run(self, is_right: bool) -> None:
        if is_served():
            values = {name: self._namespace[name] for name in self._kept}
            self.run_below.value = link_with(self._parameters, values) if is_right else ""
        else:
            self.run_below.disabled = not is_right


def _python_value(parameter: Parameter, value: Any) -> Any:
    plain = validate_parameters([parameter], {parameter.name: value})
    return python_values([parameter], plain)[parameter.name]


def _is_valid(parameter: Parameter, value: Any) -> bool:
    """Tell whether a value that was set earlier is of the type that the parameter is declared as by now."""
    try:
        _python_value(parameter, value)
    except UsageError:
        return False
    return True


def _shown(value: Any) -> str:
    return (
        ", ".join(map(str, value)) or "none"
        if isinstance(value, list)
        else "none"
        if value in (None, "")
        else str(value)
    )
