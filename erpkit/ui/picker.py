"""A picker of one name among many: a search, and the list of the names that fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from erpkit.near import did_you_mean
from erpkit.visible import visible_html

_ROWS = 7


class Picker:
    """A line to search by and a list to choose from; `value` is the key of the choice, `problem` the line below it.

    `labels` maps keys to what is shown and searched. Where a search leaves one name, that is chosen.
    """

    def __init__(self, label: str, noun: str, chosen: Callable[[], None], width: str) -> None:
        import ipywidgets  # noqa: PLC0415 - slow to import

        self._noun, self._chosen, self._labels = noun, chosen, dict[str, str]()
        self._value: str | None = None
        self._is_filling = False
        hint = f"search {noun}s"
        self.search = ipywidgets.Text(placeholder=hint, **labelled(hint), layout={"width": "100%", "margin": "0"})
        self.list = ipywidgets.Select(rows=_ROWS, **labelled(label), layout={"width": "100%", "margin": "2px 0"})
        self._heading = ipywidgets.HTML()
        self._problem = ipywidgets.HTML()
        self.widget = ipywidgets.VBox(
            [self._heading, self.search, self.list, self._problem],
            layout={"width": width, "margin": "0 12px 0 0", "flex": "0 0 auto"},
        )
        self._label = label
        self.search.observe(self._narrow, names="value")
        self.list.observe(self._choose, names="value")

    @property
    def value(self) -> str | None:
        """The key of what is chosen; None as long as nothing is."""
        return self._value

    @value.setter
    def value(self, key: str) -> None:
        if key not in self._labels:
            raise ValueError(f"there is no {self._noun} {key}")
        changes = key != self._value
        self._value = key
        self._fill(self._fitting())
        if changes:
            self._chosen()

    @property
    def options(self) -> list[str]:
        """The keys that can be chosen."""
        return list(self._labels)

    def offer(self, labels: Mapping[str, str], chosen: str | None = None) -> None:
        """Offer these, with `chosen` or what was chosen before marked if it is among them, else the first."""
        self._labels = dict(labels)
        self._value = self._value if chosen is None else chosen
        if self._value not in self._labels:
            self._value = next(iter(self._labels), None)
        self._fill(self._fitting())

    def tell(self, problem: str) -> None:
        """Show one line below the list, or none."""
        self._problem.value = alert(problem)

    def _fitting(self) -> list[str]:
        words = self.search.value.lower().split()
        return [key for key, label in self._labels.items() if all(word in label.lower() for word in words)]

    def _narrow(self, _change: object) -> None:
        fitting = self._fitting()
        self._fill(fitting)
        self.tell("")
        if not fitting:
            hint = did_you_mean(self.search.value.strip(), filter(None, self._labels), listed=5)
            self.tell(f"no {self._noun} fits {self.search.value.strip()!r}: {hint}")
        elif len(fitting) == 1:
            self.value = fitting[0]

    def _fill(self, keys: list[str]) -> None:
        """Show these in the list, with the chosen one marked."""
        self._is_filling = True
        try:
            self.list.options = [(self._labels[key], key) for key in keys]
            self.list.value = self._value if self._value in keys else None
        finally:
            self._is_filling = False
        count = sum(1 for key in keys if key), sum(1 for key in self._labels if key)
        told = f"{count[0]:,} of {count[1]:,}" if count[0] != count[1] else f"{count[1]:,}"
        self._heading.value = f'<b>{visible_html(self._label)}</b> <span style="opacity:.7">{told}</span>'

    def _choose(self, change: Any) -> None:
        if not self._is_filling and change["new"] is not None:
            self.value = change["new"]


def labelled(text: str) -> dict[str, Any]:
    """Return a label that a screen reader says and the eye does not see: a heading stands above."""
    return {"description": text, "style": {"description_width": "0"}}


def alert(problem: str, tone: str = "error") -> str:
    """Return the HTML of one line about a mistake, or about what is missing; nothing for none."""
    if not problem:
        return ""
    colour = "var(--jp-error-color1,#dc2626)" if tone == "error" else "var(--jp-warn-color0,#b45309)"
    style = f"color:{colour};line-height:1.35;overflow-wrap:anywhere;white-space:normal"
    return f'<div role="alert" style="{style}">{visible_html(problem)}</div>'
