"""Deciding on a plan: a run applies it with the id that it was given, a person in JupyterLab by buttons."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import psycopg

from erpkit.errors import ErpkitError, PlanChangedError
from erpkit.finding import Finding
from erpkit.plan import Plan, PlanRecord, Shown, Work
from erpkit.result import SCRAP, Summary, to_html
from erpkit.ui.front import run_below_button
from erpkit.ui.progress import progress_bar
from erpkit.ui.served import reload_link
from erpkit.visible import visible_html
from erpkit.watching import is_a_notebook_watched, is_served

if TYPE_CHECKING:
    from ipywidgets import HTML, VBox

_NEXT = Finding("next", "", "nothing is changed yet: to do it, type the plan's id beside the button Apply", "info")
_Record = TypeVar("_Record", bound=PlanRecord)
_Result = TypeVar("_Result", bound=Shown)


def decide(plan: Plan[_Record, _Result], *, dry_run: bool = True, confirm: str = "") -> Decision[_Record, _Result]:
    """Apply a plan unless this is a dry run; in JupyterLab, offer to do it by buttons.

    Raises PlanChangedError, before anything was done, unless `confirm` is the id of the present plan.
    """
    decision = Decision(plan)
    if not dry_run:
        with progress_bar(plan.record.size, plan.unit) as advance:
            decision.result = plan.apply(confirm, Work(advance))
    return decision


@dataclass(frozen=True)
class _LiveSummary(Summary):
    """A summary that follows the buttons: `view` shows the present one."""

    view: Any = None

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.view._repr_mimebundle_(**options) | {"text/plain": str(self)}


class Decision(Generic[_Record, _Result]):
    """The buttons Plan, Apply, Stop and Resume over a plan; `result` is what applying it brought, None before.

    Apply is only enabled once the id of the plan, which stands beside it, is typed; where the plan is another one by then, nothing
    is done. The work has a thread of its own, so that Stop is heard. Resume goes on under the id that was confirmed, if that
    still stands for the rest; else it shows the rest as a plan to confirm. A run has no buttons: there the parameters `dry_run`
    and `confirm` do the same.
    """

    def __init__(self, plan: Plan[_Record, _Result]) -> None:
        self.plan = plan
        self.result: _Result | None = None
        self._work = Work()
        self._thread: threading.Thread | None = None
        self._done = self._total = 0
        self._confirmed = ""
        self._is_summed = False

    @property
    def summary(self) -> Summary:
        """The figures of the plan, or of what applying it brought, and what a person should look at; under buttons, it follows them."""
        self._is_summed = True
        return _LiveSummary(*self._present, self._live) if self._has_buttons else self.plan.summary(self.result)

    @property
    def _present(self) -> tuple[str, Mapping[str, Any], Sequence[Finding | str]]:
        """The summary's parts for a person at the buttons: what is to be done next, and whether it was done to its end."""
        now = self.plan.summary(self.result)
        if self.result is None:
            return now.title, now.facts, [*now.findings, *([_NEXT] if self.plan.record.size else [])]
        word = "Stopped" if self._work.stop.is_set() else "Applied"
        return now.title.replace("Applied", word, 1), now.facts, now.findings

    def _summed(self) -> str:
        return Summary(*self._present).html()

    def add_to(self, summary: Summary) -> Summary:
        """Return the summary of what follows with the figures and findings of this decision: of a mend before a retry, say."""
        if not self.plan.record.size:
            return summary
        own = {f"{self.plan.id.partition('-')[0]} plan": self.plan.id, **self.plan.record.facts}
        now = self.result or self.plan.record
        return replace(
            summary, facts={**own, **now.facts, **summary.facts}, findings=[*now.findings, *summary.findings]
        )

    @property
    def _has_buttons(self) -> bool:
        return is_a_notebook_watched() and (self.result is None or "widget" in self.__dict__)

    @cached_property
    def _live(self) -> HTML:
        import ipywidgets  # noqa: PLC0415 - slow to import

        return ipywidgets.HTML(self._summed())

    def _ipython_display_(self) -> None:
        from IPython.display import display  # noqa: PLC0415 - only a notebook needs it

        if self._has_buttons:
            display(self.widget)
            return
        scrap = self.summary.scrap("findings")
        display({"text/plain": str(self.result or self.plan), "text/html": self._html(), SCRAP: scrap}, raw=True)

    def _html(self) -> str:
        if self.result is None:
            hint = "<p>Dry run: nothing was changed.</p>" if self.plan.record.size else ""
            return self.plan._repr_html_() + hint
        return to_html(str(self.result), findings=self.result.findings, tables=self.result.tables)

    def wait(self, seconds: float | None = None) -> None:
        """Wait until the present work has ended."""
        if self._thread is not None:
            self._thread.join(seconds)

    @cached_property
    def widget(self) -> VBox:
        """The buttons and the messages beside them; made when they are shown, or a run would keep them in its output."""
        import ipywidgets as widgets  # noqa: PLC0415 - slow to import

        wide = {"width": "max-content"}
        self._is_summed_above = self._is_summed
        self.head, self.state, self.view = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.id = widgets.HTML()
        self.plan_button = widgets.Button(description="Plan again", icon="refresh", layout=wide)
        self.confirm = widgets.Text(description="Plan's id", style={"description_width": "5em"})
        self.apply_button = widgets.Button(description="Apply", icon="check", button_style="danger", layout=wide)
        self.stop_button = widgets.Button(description="Stop", icon="stop", layout=wide, disabled=True)
        self.resume_button = widgets.Button(description="Resume", icon="play", button_style="primary", layout=wide)
        self.resume_button.layout.display = "none"
        self.bar = widgets.IntProgress(layout={"width": "24em", "display": "none"})
        verify = "Verify: run the cells below"
        self.run_below = widgets.HTML(reload_link()) if is_served() else run_below_button(verify)
        buttons = [self.plan_button, self.id, self.confirm, self.apply_button, self.stop_button, self.resume_button]
        line = widgets.HBox(buttons, layout={"flex_flow": "row wrap", "align_items": "center"})
        self.plan_button.on_click(lambda _: self._begin(self._plan_again))
        self.apply_button.on_click(lambda _: self._begin(self._apply))
        self.stop_button.on_click(lambda _: self._stop())
        self.resume_button.on_click(lambda _: self._begin(self._resume))
        self.confirm.observe(lambda _: self._check(), names="value")
        self.run_below.layout.display = "none"
        self._take(self.plan)
        return widgets.VBox([self.head, line, self.bar, self.state, self.view, self.run_below])

    def _begin(self, work: Callable[[], None]) -> None:
        self._work = Work(self._advance)
        for button in (self.plan_button, self.apply_button, self.confirm):
            button.disabled = True
        self._done = self._total = 0
        self.view.value, self.run_below.layout.display, self.resume_button.layout.display = "", "none", "none"
        self._thread = threading.Thread(target=self._run, args=(work,), name="erpkit-decision", daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except PlanChangedError as error:
            self._take(error.plan or self.plan)
            self._tell(str(error), wrong=True)
        except (ErpkitError, psycopg.Error) as error:
            self._tell(str(error).strip().splitlines()[0], wrong=True)
        except Exception as error:  # a thread's error would be shown nowhere
            self._tell(f"{type(error).__name__}: {error}", wrong=True)
        finally:
            self.bar.layout.display = "none"
            self.resume_button.layout.display = None if self._work.stop.is_set() else "none"
            self.stop_button.disabled, self.plan_button.disabled = True, False
            self.confirm.disabled = not self.plan.record.size
            self.apply_button.disabled = not self._is_confirmed()

    def _plan_again(self) -> None:
        self._tell("planning …")
        self.stop_button.disabled = False
        self._take(self.plan.again(self._work))

    def _resume(self) -> None:
        """Go on after Stop: at once where the confirmed id stands for the rest, too."""
        stopped, rest = self.result, None
        if stopped is not None and self._confirmed and self.plan.rest is not None:
            rest = self.plan.rest(stopped)
        if rest is None:
            self._plan_again()
            return
        self._take(rest)
        if rest.id == self._confirmed:
            self.confirm.value = rest.id
            self._apply()

    def _take(self, plan: Plan[_Record, _Result]) -> None:
        self.plan, self.result = plan, None
        self.confirm.disabled = not plan.record.size  # there is nothing that an id could confirm
        self.confirm.placeholder = "type it to confirm" if plan.record.size else "there is nothing to do"
        self._live.value = self._summed()
        self.id.value = f"<code>{visible_html(plan.id)}</code>"
        target = f" on <strong>{visible_html(plan.target)}</strong>"
        self.head.value = f"<code>{visible_html(plan.id)}</code>: {visible_html(str(plan.record))}{target}"
        found = () if self._is_summed_above else plan.record.findings
        self.view.value = to_html("", findings=found, tables=plan.record.tables)
        self._check()

    def _apply(self) -> None:
        # a page of Voilà's ends its kernel when it is left, and the work with it
        self._tell("applying …" + " keep this page open until it has ended" * is_served())
        self._total = self.plan.record.size
        self.bar.value, self.bar.max, self.bar.layout.display = 0, max(1, self._total), None
        self.stop_button.disabled = not self.plan.can_stop
        self._confirmed = self.confirm.value.strip()
        self.result = self.plan.apply(self._confirmed, self._work)
        self.confirm.value = ""
        self._live.value = self._summed()
        self.view.value = "" if self._is_summed_above else self._live.value
        self.view.value += to_html("", tables=self.result.tables)
        self.run_below.layout.display = None
        self._tell(str(self.result))

    def _advance(self, count: int) -> None:
        self._done += count
        self.bar.value = min(self._done, self.bar.max)
        if not self._work.stop.is_set():
            whole = f" of {self._total:,}" if self._total else ""
            self._tell(f"{self._done:,}{whole} {self.plan.unit}{' – keep this page open' * is_served()}")

    def _stop(self) -> None:
        self._work.stop.set()
        self.stop_button.disabled = True
        self._tell("stopping after the work in progress …")

    def _check(self) -> None:
        """Enable Apply for the plan's own id, and show an error for another one."""
        self.apply_button.disabled = not self._is_confirmed()
        given = self.confirm.value.strip()
        wrong = bool(given) and given != self.plan.id
        self._tell(f"{given!r} is not the id of the present plan, {self.plan.id}" if wrong else "", wrong=wrong)

    def _is_confirmed(self) -> bool:
        return bool(self.plan.record.size) and self.confirm.value.strip() == self.plan.id

    def _tell(self, text: str, wrong: bool = False) -> None:
        color = ' style="color:var(--jp-error-color1,#dc2626)"' if wrong else ""
        role = "alert" if wrong else "status"
        self.state.value = f'<span role="{role}"{color}>{visible_html(text)}</span>' if text else ""
