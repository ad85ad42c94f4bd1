"""What a runbook works on, said so loudly that a rehearsal is not taken for the real thing, and what a rehearsal proved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from erpkit.cells import PLAIN
from erpkit.finding import Finding
from erpkit.result import Summary
from erpkit.visible import visible_html
from erpkit.watching import is_a_notebook_watched

if TYPE_CHECKING:
    from erpkit.erp import Erp, Rehearsal

_LOUD = "padding:.6em 1em;margin:.5em 0;border-radius:3px;font-size:1.15em;"
_REHEARSAL = _LOUD + "background:#fbbf24;color:#1c1917;border:3px dashed #92400e"  # never green: nothing real was done
_FORMER = "filter:grayscale(1);opacity:.75"
_SAYS_FORMER = "This, and all below, is of the former run: <code>rehearse</code> was changed since. Press <em>Run</em>."
_EARNEST = _LOUD + "background:#991b1b;color:#ffffff"


@dataclass(frozen=True)
class Banner:
    """The line above a runbook: a rehearsal on a scratch copy, or in earnest on a target."""

    word: str
    text: str

    def _repr_html_(self) -> str:
        style = _REHEARSAL if self.word == "REHEARSAL" else _EARNEST
        return f'<div class="{PLAIN}" role="note" style="{style}"><strong>{self.word}</strong> {visible_html(self.text)}</div>'

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        plain = {"text/plain": repr(self), "text/html": self._repr_html_()}
        if not is_a_notebook_watched():
            return plain
        import ipywidgets  # noqa: PLC0415 - slow to import

        view = ipywidgets.HTML(self._repr_html_())
        _shown[:] = [(self, view)]
        return {**view._repr_mimebundle_(**options), **plain}

    def __repr__(self) -> str:
        return f"{self.word} {self.text}"


_shown: list[tuple[Banner, Any]] = []  # the banner of this notebook and its view, once a person sees it


def fade_banner(rehearse: object) -> None:
    """Turn the banner grey, and say why, as long as the form's `rehearse` is not the one that it was shown for."""
    for one, view in _shown:
        if bool(rehearse) == (one.word == "REHEARSAL"):
            view.value = one._repr_html_()
        else:
            view.value = f'<div style="{_FORMER}">{one._repr_html_()}</div><p role="status">{_SAYS_FORMER}</p>'


def banner(erp: Erp, rehearsal: Rehearsal | None) -> Banner:
    """Say what the cells below work on; for a runbook, below its form."""
    if rehearsal is not None:
        how = (
            "untick rehearse and press Run" if is_a_notebook_watched() else "pass rehearse = False (-p rehearse false)"
        )
        untouched = f"No tenant of yours is touched. For the real thing, {how}."
        return Banner("REHEARSAL", f"on a scratch copy of the sample ERP. {untouched}")
    return Banner("IN EARNEST", f"on {erp.target}. Nothing is changed without the plan's id.")


@dataclass(frozen=True)
class _Rehearsed(Summary):
    """The summary of a rehearsal: below the banner, what it proved and what it did not."""

    proved: Mapping[str, bool] = field(default_factory=dict)

    def html(self) -> str:
        lines = "".join(
            f"<li>{'proved' if is_so else '<strong>NOT proved</strong>'}: {visible_html(text)}</li>"
            for text, is_so in self.proved.items()
        )
        proved = f'<strong>REHEARSAL</strong><ul style="margin:.3em 0">{lines}</ul>'
        return f'<div class="{PLAIN}" style="{_REHEARSAL}">{proved}</div>{_plain(self)}'

    def __str__(self) -> str:
        lines = [f"  {'proved' if is_so else 'NOT proved'}: {text}" for text, is_so in self.proved.items()]
        return "\n".join([super().__str__(), *lines])


def _plain(summary: Summary) -> str:
    """Return the figures and findings in grey: a rehearsal that went well says nothing good of a real tenant."""
    return f'<div style="filter:grayscale(1)">{Summary(summary.title, summary.facts, summary.findings).html()}</div>'


def prove(summary: Summary, rehearsal: Rehearsal | None, proved: Mapping[str, bool]) -> Summary:
    """Return the summary of a runbook; that of a rehearsal says what it proved: `proved` are statements that were checked.

    One that does not hold is an error among its findings.
    """
    if rehearsal is None:
        return summary
    wrong = [Finding("not-proved", "", f"not proved: {text}", "error") for text, is_so in proved.items() if not is_so]
    title = f"REHEARSAL on a scratch copy: {summary.title}"
    return _Rehearsed(
        title,
        {"rehearsal": "proved" if not wrong else "NOT proved", **summary.facts},
        [*summary.findings, *wrong],
        proved,
    )
