"""The rows of a DataFrame in Perspective, which groups, pivots, filters, sorts and charts them, and exports CSV."""

from __future__ import annotations

import json
import math
from datetime import date, datetime
from decimal import Decimal
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from erpkit.table import Table
from erpkit.watching import is_a_notebook_watched

if TYPE_CHECKING:
    import pandas

_HEIGHT = "560px"
_IN_UTC = {"date_format": {"timeZone": "UTC"}}  # else times are shown in the browser's zone
_INT32, _EXACT = 2**31, 2**53  # Perspective's integers have 32 bits, and its floats hold whole numbers up to 2**53
_DIGITS = 15  # what a float keeps of a decimal
# anywidget gives a widget's module two seconds to load, as of 0.11, which Perspective's 6 MB do not meet on a busy machine: then it
# stays empty. So this small module asks the kernel for the large one, once a page: defining its elements again is an error, too.
# It also follows JupyterLab into the dark, which Perspective does not by itself.
_SOURCE = "erpkit_source"
_LOAD = """
function ask(model) {
  return new Promise((resolve) => {
    const take = (message) => {
      if (message.type !== "erpkit_source") return;
      model.off("msg:custom", take);
      resolve(message.source);
    };
    model.on("msg:custom", take);
    model.send({ type: "erpkit_source" });
  });
}
async function load(model) {
  const source = globalThis.erpkitPerspective ? "" : await ask(model);
  const asUrl = () => URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  globalThis.erpkitPerspective ??= import(asUrl());
  return (await globalThis.erpkitPerspective).default;
}
const theme = () => (document.body.dataset.jpThemeLight === "false" ? "Pro Dark" : "Pro Light");
async function render(view) {
  view.model.set("theme", theme());
  const observer = new MutationObserver(() => {
    view.el.querySelector("perspective-viewer")?.restore({ theme: theme() });
  });
  observer.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
  const end = await (await load(view.model)).render(view);
  return () => {
    observer.disconnect();
    end();
  };
}
export default { render };
"""
_WITHOUT = (
    '<p style="opacity:.7">Install <code>erpkit[explore]</code> and restart JupyterLab to group, pivot, filter and '
    "chart these rows and to save them as CSV.</p>"
)


class Viewer:
    """Shows one DataFrame after the other in `widget`: in Perspective, or as a sortable table where it is not installed.

    What was grouped, sorted and filtered stays while rows of the same columns are shown. Other columns, and rows after nothing, get a
    Perspective of their own: one that was taken off the page does not always draw again, as of 5.6. It makes a widget only where a
    person watches.
    """

    def __init__(self) -> None:
        import ipywidgets  # noqa: PLC0415 - slow to import

        self.widget = ipywidgets.VBox(layout={"width": "100%"})
        self._perspective: Any = None
        self._schema: dict[str, str] = {}

    def show(self, frame: pandas.DataFrame, title: str = "") -> None:
        """Show these rows in place of those before; a CSV that is saved has `title` as its name."""
        if not is_a_notebook_watched():
            return
        if not has_perspective():
            self.widget.children = _as_table(frame)
            return
        schema, values = columns_of(frame)
        if self._perspective is None or schema != self._schema:
            self._open(schema, values)
        else:
            self._perspective.replace(values)
        self._perspective.title = title or None
        self.widget.children = [self._perspective]

    def clear(self) -> None:
        """Show nothing."""
        self.widget.children = []
        self._perspective = None

    def _open(self, schema: dict[str, str], values: dict[str, list[Any]]) -> None:
        """Show a table of other columns."""
        import perspective  # noqa: PLC0415 - slow to import, and an extra

        table = perspective.table(schema)
        table.update(values)
        self._schema, self._perspective = schema, _make_perspective()
        with self._perspective.hold_sync():
            self._perspective.load(table)
            self._perspective.columns = list(schema)
            self._perspective.columns_config = {name: _IN_UTC for name, kind in schema.items() if kind == "datetime"}


def _make_perspective() -> Any:
    """Return Perspective's widget, whose script is loaded once a page."""
    from perspective.widget import PerspectiveWidget  # noqa: PLC0415 - an extra

    class Widget(PerspectiveWidget):  # type: ignore[misc]
        _esm = _LOAD

    def answer(asking: Any, content: dict[str, Any], _buffers: object) -> None:
        if content.get("type") == _SOURCE:
            asking.send({"type": _SOURCE, "source": str(PerspectiveWidget._esm)})

    widget = Widget(None)
    widget.on_msg(answer)
    widget.layout = {"height": _HEIGHT, "flex": "none", "width": "100%"}  # without flex a box gives it no height
    return widget


def has_perspective() -> bool:
    """Tell whether the extra `explore` is installed."""
    return all(find_spec(name) is not None for name in ("perspective", "anywidget"))


def columns_of(frame: pandas.DataFrame) -> tuple[dict[str, str], dict[str, list[Any]]]:
    """Return the type and the values of each column as Perspective takes them, without pyarrow. Pure.

    No value is rounded: whole numbers and decimals that a float cannot hold become text, as do arrays, documents and all else
    that Perspective has no type for. NaN and infinity are empty.
    """
    schema, values = {}, {}
    for name in frame.columns:
        present = frame[name].isna()
        cells = [None if is_null else value for value, is_null in zip(frame[name].tolist(), present, strict=True)]
        schema[str(name)], values[str(name)] = _column_of(cells)
    return schema, values


def _column_of(cells: list[Any]) -> tuple[str, list[Any]]:
    kinds = {type(cell) for cell in cells if cell is not None}
    if kinds == {bool}:
        return "boolean", cells
    if kinds and kinds <= {int, float, Decimal} and all(map(_is_exact, cells)):
        is_integer = kinds == {int} and all(cell is None or -_INT32 < cell < _INT32 for cell in cells)
        return ("integer", cells) if is_integer else ("float", list(map(_float, cells)))
    if kinds and all(issubclass(kind, datetime) for kind in kinds):
        return "datetime", [cell and cell.timestamp() * 1000 for cell in cells]
    if kinds == {date}:
        return "date", [cell and cell.isoformat() for cell in cells]
    return "string", [None if cell is None else _text(cell) for cell in cells]


def _is_exact(cell: Any) -> bool:
    """Tell whether a float holds this number without rounding it."""
    if isinstance(cell, Decimal):
        return not cell.is_finite() or len(cell.as_tuple().digits) <= _DIGITS
    return not isinstance(cell, int) or abs(cell) <= _EXACT


def _float(cell: Any) -> float | None:
    return None if cell is None or not math.isfinite(cell) else float(cell)


def _text(cell: Any) -> str:
    return json.dumps(cell, default=str, ensure_ascii=False) if isinstance(cell, dict | list) else str(cell)


def _as_table(frame: pandas.DataFrame) -> list[Any]:
    """Return the rows as a table that sorts and filters, or a plain one, and how to get more."""
    import ipywidgets  # noqa: PLC0415

    table = Table.of_frame(frame, "no rows", height="32em", raw=True)
    return [table.grid() or ipywidgets.HTML(table._repr_html_()), ipywidgets.HTML(_WITHOUT)]
