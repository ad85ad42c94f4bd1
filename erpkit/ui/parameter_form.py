"""A form for a notebook's parameters, made from their declaration; a run does not see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from erpkit.config import Settings
from erpkit.erp import Installation
from erpkit.errors import ErpkitError, UsageError
from erpkit.modules import Registry, load_modules
from erpkit.runs import Parameter, check_parameters, read_parameters, validate_parameters
from erpkit.ui.decision import run_below_button
from erpkit.ui.fields import Field, field_of
from erpkit.visible import visible_html
from erpkit.watching import is_a_notebook_watched

if TYPE_CHECKING:
    from ipywidgets import VBox


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


# Which parameters are picked from a list, by their names.
_KINDS = {
    "tenant": "tenants", "tenants": "tenants", "canaries": "tenants",
    "topic": "topics", "topics": "topics",
    "handler": "handlers", "handlers": "handlers", "side_effects": "handlers",
    "module": "modules", "modules": "modules", "impact": "modules",
}  # fmt: skip
_GROUPS = "erpkit."  # what the names of groups of modules begin with, beside the configured one


class Choices:
    """The choices for a notebook's parameters, read when they are first asked for.

    `notes` say what could not be read: a form is of use without it.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.notes: list[str] = []

    def of(self, parameter: Parameter) -> Sequence[str] | None:
        """Return the choices for a parameter; None for one that is typed in."""
        kind = _KINDS.get(parameter.name)
        if parameter.name == "modules" and parameter.annotation == "str":
            kind = "groups"
        return None if kind is None else list(getattr(self, kind))

    @cached_property
    def tenants(self) -> list[str]:
        """Every tenant, by name."""
        try:
            with Installation(self._settings) as erp:
                return [tenant.slug for tenant in erp.find()]
        except ErpkitError as error:
            self.notes.append(f"tenants cannot be listed: {error}")
            return []

    @cached_property
    def topics(self) -> list[str]:
        """Patterns for all topics and for those of each module, then the topics of all that is published or handled."""
        modules = self._registry.modules
        events = [
            event for m in modules for event in (*m.publishes, *(e for handler in m.subscribes for e in handler.events))
        ]
        topics = sorted({self._registry.topic(event) for event in events})
        return ["*", *dict.fromkeys(f"{topic.partition('.')[0]}.*" for topic in topics), *topics]

    @cached_property
    def handlers(self) -> list[str]:
        """Every event handler, by name."""
        return sorted(self._registry.event_handlers)

    @cached_property
    def modules(self) -> list[str]:
        """Every module, by name."""
        return [module.name for module in self._registry.modules]

    @cached_property
    def groups(self) -> list[str]:
        """The entry-point groups that modules are registered under."""
        groups = {group for group in entry_points().groups if group.startswith(_GROUPS) and group != "erpkit.demo"}
        return sorted(groups | ({self._settings.modules} if self._settings.modules else set()))

    @cached_property
    def _registry(self) -> Registry:
        try:
            return load_modules(self._settings)
        except ErpkitError as error:
            self.notes.append(f"modules cannot be read: {error}")
            return Registry.of(())


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
        """Set the notebook's variable to the value of a field; show an error for a wrong value, and keep the old one."""
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
