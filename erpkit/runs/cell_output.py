"""What a cell puts out, as it is kept: one text a stream, a line that is drawn anew only once, and no more than a limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import nbformat
from papermill.clientwrap import PapermillNotebookClient

from erpkit.plural import count_of
from erpkit.runs.stopper import MEGABYTE
from erpkit.runs.text import escape_surrogates, redrawn, redrawn_part

_JOINED = 65_536  # characters; a longer text is joined with the next when the cell ends, as joining copies it
_ERROR = 100_000  # characters of an error that are kept at least

# ipykernel drops a message that is not UTF-8, and with it whatever a cell printed at about the same time. JSON has an escape for
# such a character. It is run in a namespace of its own, silently, and leaves no name.
PREPARE = """
def _prepare():
    import json
    from jupyter_client.jsonutil import json_default
    session = get_ipython().kernel.session
    packed = session.pack
    def pack(content):
        try:
            return packed(content)
        except UnicodeEncodeError:
            return json.dumps(content, default=json_default).encode()
    session.pack = pack
_prepare()
"""


class OutputKeeper(PapermillNotebookClient):  # type: ignore[misc]
    """A client that keeps the outputs of each cell within `output_limit` bytes, and counts what it left out in `cut`."""

    def __init__(self, *arguments: Any, output_limit: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.output_limit = output_limit
        self.on_cell_executed = self._join
        self.cut: Counter[int] = Counter()  # bytes that were left out, by cell
        self._kept: Counter[int] = Counter()

    def prepare_kernel(self) -> None:
        """Let a Python kernel send any text; call it before the first cell."""
        if self.km.ipykernel:
            self.kc.execute(f"exec({PREPARE!r}, {{'get_ipython': get_ipython}})", silent=True, store_history=False)

    def process_message(self, message: Any, cell: Any, cell_index: int) -> Any:
        """Keep what one message brings, and say in the cell when the limit is reached."""
        content = message["content"] = escape_surrogates(message["content"])
        kind, left = message["msg_type"], self.output_limit - self._kept[cell_index]
        if kind == "stream":
            content["text"] = redrawn_part(content["text"])
        if kind not in _OUTPUTS or _size(content) <= max(left, _ERROR if kind == "error" else 0):
            return super().process_message(message, cell, cell_index)
        said = not self.cut[cell_index]
        self.cut[cell_index] += _size(content) - max(0, left)
        content |= _shortened(kind, content, max(0, left))
        done = super().process_message(message, cell, cell_index) if kind in ("stream", "error") else None
        if said:
            note = f"[The output of this cell is cut here: it is more than {megabytes(self.output_limit)}.]\n"
            cell.outputs.append(nbformat.v4.new_output("stream", name="stderr", text=note))
        return done

    def output(self, outs: Any, message: Any, display_id: str | None, cell_index: int) -> Any:
        """Add an output, or add a text to the one before it."""
        content = message["content"]
        if message["msg_type"] == "stream" and outs and _continues(outs[-1], content) and self._is_plain(message):
            before = len(outs[-1]["text"])
            outs[-1]["text"] = redrawn(outs[-1]["text"] + content["text"])
            self._kept[cell_index] += len(outs[-1]["text"]) - before
            return outs[-1]
        if self.clear_before_next_output:
            self._kept[cell_index] = 0
        self._kept[cell_index] += _size(content)
        return super().output(outs, message, display_id, cell_index)

    def clear_output(self, outs: Any, message: Any, cell_index: int) -> None:
        """Clear the outputs of a cell; what they took may be taken again."""
        super().clear_output(outs, message, cell_index)
        self._kept[cell_index] = sum(map(_size, outs))

    def _is_plain(self, message: Any) -> bool:
        """Tell whether the message is for the cell itself, which is not to be cleared first, rather than for a widget."""
        return not self.clear_before_next_output and not self.output_hook_stack[message["parent_header"].get("msg_id")]

    def _join(self, cell: Any, cell_index: int, **_: Any) -> None:
        """Join the long texts of a cell at its end; not where a display may still be updated, which is found by its index."""
        if not any(indexes.get(cell_index) for indexes in self._display_id_map.values()):
            cell.outputs = join_streams(cell.outputs)


_OUTPUTS = ("stream", "display_data", "execute_result", "update_display_data", "error")


def join_streams(outputs: Sequence[Any]) -> list[Any]:
    """Return the outputs of a cell with texts of one stream that follow each other joined, and lines drawn anew shown once."""
    joined: list[Any] = []
    parts: list[str] = []
    for output in outputs:
        if output["output_type"] == "stream" and joined and _is_stream(joined[-1], output["name"]):
            parts.append(output["text"])
            continue
        _end(joined, parts)
        joined.append(output)
        parts = [output["text"]] if output["output_type"] == "stream" else []
    _end(joined, parts)
    return joined


def describe_cut(cut: Counter[int], limit: int) -> list[str]:
    """Return a line for each cell whose output was cut, by its number in the notebook."""
    return [
        f"cell {index + 1} put out {megabytes(limit + size)}: the output is cut after {megabytes(limit)}, --output-limit"
        for index, size in sorted(cut.items())
    ]


def megabytes(size: int) -> str:
    """Return a size for people."""
    return f"{size / MEGABYTE:,.1f} MB" if size >= MEGABYTE / 10 else count_of(size, "byte")


def _end(joined: list[Any], parts: list[str]) -> None:
    if parts:
        joined[-1]["text"] = redrawn("".join(parts))


def _continues(output: Any, content: Any) -> bool:
    return _is_stream(output, content["name"]) and len(output["text"]) < _JOINED


def _is_stream(output: Any, name: str) -> bool:
    return bool(output["output_type"] == "stream" and output["name"] == name)


def _size(value: Any) -> int:
    """Return about how many bytes the texts in an output take."""
    if isinstance(value, str):
        return len(value)
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(_size, items))


def _shortened(kind: str, content: Any, left: int) -> dict[str, Any]:
    """Return what is left of an output: the beginning of a text, of an error enough to know it, and nothing of any other."""
    if kind == "stream":
        return {"text": content["text"][:left]}
    if kind == "error":
        return {
            "evalue": content["evalue"][:_ERROR],
            "traceback": [line[:_ERROR] for line in content["traceback"][-20:]],
        }
    return {}
