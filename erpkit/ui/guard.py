"""Plan, apply and stop as buttons, behind the same guard as a run: nothing is written without the plan's id."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import psycopg

from erpkit.database import Database
from erpkit.errors import ErpkitError, PlanChangedError
from erpkit.ui.lab import run_below_button
from erpkit.ui.show import Table
from erpkit.visible import visible_html
from erpkit.watching import is_a_notebook_watched

if TYPE_CHECKING:
    from ipywidgets import VBox

__all__ = ["Guard", "Operation", "Work"]


class Plan(Protocol):
    """What is going to be done; its id stands for exactly that."""

    @property
    def id(self) -> str:
        """What a person confirms."""


_Plan = TypeVar("_Plan", bound=Plan)
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Work:
    """What long work gets: `advance` is told how many things were done, and `stop` is set when it is to end early."""

    advance: Callable[[int], None] = lambda _: None
    stop: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Operation(Generic[_Plan, _Result]):
    """Something that is planned, confirmed and done: how, in words, and as tables.

    `size` tells how many things (`unit`) doing it takes; `can_stop` whether it heeds `Work.stop` while it is done. Where
    planning is long work itself, `look_again` finds out in short what the plan would be by now.
    """

    plan: Callable[[Database, Work], _Plan]
    apply: Callable[[Database, _Plan, str, Work], _Result]
    describe: Callable[[_Plan], str]
    plan_table: Callable[[_Plan], Table]
    outcome: Callable[[_Result], str]
    result_table: Callable[[_Result], Table]
    size: Callable[[_Plan], int] = lambda _: 0
    unit: str = ""
    can_stop: bool = True
    look_again: Callable[[Database], _Plan] | None = None

    def present(self, database: Database) -> _Plan:
        """Return what the plan would be by now."""
        return self.look_again(database) if self.look_again else self.plan(database, Work())


class Guard(Generic[_Plan, _Result]):
    """The buttons Plan, Apply and Stop, over an operation; `result` is what Apply brought, None before.

    Apply is only enabled once the id of the plan is typed into the line beside it, and plans anew first: if the world has
    moved, nothing is done. The work has a thread and a database connection of its own, so that Stop is heard. Where nobody
    watches nothing is shown: there the parameters `dry_run` and `confirm` do the same.
    """

    def __init__(self, database: Database, operation: Operation[_Plan, _Result], plan: _Plan | None = None) -> None:
        self.result: _Result | None = None
        self.plan = plan
        self._database, self._operation, self._work = database, operation, Work()
        self._thread: threading.Thread | None = None
        self._done = self._total = 0

    def _ipython_display_(self) -> None:
        if is_a_notebook_watched():
            from IPython.display import display  # noqa: PLC0415

            display(self.widget)

    def wait(self, seconds: float | None = None) -> None:
        """Wait until the work in hand has ended."""
        if self._thread is not None:
            self._thread.join(seconds)

    @cached_property
    def widget(self) -> VBox:
        """The buttons and what is said beside them; made when they are shown, as a run would keep them in its output."""
        import ipywidgets as widgets  # noqa: PLC0415 - slow to import

        wide = {"width": "max-content"}
        self.head, self.state, self.view = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.plan_button = widgets.Button(description="Plan again", icon="refresh", layout=wide)
        self.confirm = widgets.Text(
            description="Plan's id", placeholder="type it to confirm", style={"description_width": "5em"}
        )
        self.apply_button = widgets.Button(description="Apply", icon="check", button_style="danger", layout=wide)
        self.stop_button = widgets.Button(description="Stop", icon="stop", layout=wide, disabled=True)
        self.bar = widgets.IntProgress(layout={"width": "24em", "display": "none"})
        self.run_below = run_below_button("Verify: run the cells below")
        buttons = [self.plan_button, self.confirm, self.apply_button, self.stop_button]
        line = widgets.HBox(buttons, layout={"flex_flow": "row wrap", "align_items": "center"})
        self.plan_button.on_click(lambda _: self._begin(self._plan_again))
        self.apply_button.on_click(lambda _: self._begin(self._apply))
        self.stop_button.on_click(lambda _: self._stop())
        self.confirm.observe(lambda _: self._check(), names="value")
        self.run_below.layout.display = "none"
        self._show_plan()
        return widgets.VBox([self.head, line, self.bar, self.state, self.view, self.run_below])

    def _begin(self, work: Callable[[Database], None]) -> None:
        """Do the work in a thread, on a database of its own: the notebook may have closed its own."""
        self._work = Work(self._advance)
        for button in (self.plan_button, self.apply_button, self.confirm):
            button.disabled = True
        self._done = self._total = 0
        self.view.value, self.run_below.layout.display = "", "none"
        self._thread = threading.Thread(target=self._run, args=(work,), name="erpkit-guard", daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[Database], None]) -> None:
        try:
            with self._database.apart() as database:
                work(database)
        except (ErpkitError, psycopg.Error) as error:
            self._tell(str(error).strip().splitlines()[0], wrong=True)
        except Exception as error:  # what a thread raises nobody would see
            self._tell(f"{type(error).__name__}: {error}", wrong=True)
        finally:
            self.bar.layout.display = "none"
            self.stop_button.disabled, self.plan_button.disabled, self.confirm.disabled = True, False, False
            self.apply_button.disabled = not self._is_confirmed()

    def _plan_again(self, database: Database) -> None:
        self._tell("planning …")
        self.stop_button.disabled = False
        self._take(self._operation.plan(database, self._work))

    def _take(self, plan: _Plan) -> None:
        self.plan = plan
        self._show_plan()
        self.view.value = self._operation.plan_table(plan)._repr_html_()

    def _apply(self, database: Database) -> None:
        self._tell("comparing with the plan …")
        confirm, present = self.confirm.value.strip(), self._operation.present(database)
        if present.id != confirm:
            self._take(present)
            raise PlanChangedError(
                f"{confirm} is stale, the plan is {present.id} by now: nothing was done; read it again"
            )
        self._tell("applying …")
        self._total = self._operation.size(present)
        self.bar.value, self.bar.max, self.bar.layout.display = 0, max(1, self._total), None
        self.stop_button.disabled = not self._operation.can_stop
        self.result = self._operation.apply(database, present, confirm, self._work)
        self.confirm.value = ""
        self.view.value = self._operation.result_table(self.result)._repr_html_()
        self.run_below.layout.display = None
        self._tell(self._operation.outcome(self.result))

    def _advance(self, count: int) -> None:
        self._done += count
        self.bar.value = min(self._done, self.bar.max)
        if not self._work.stop.is_set():
            whole = f" of {self._total:,}" if self._total else ""
            self._tell(f"{self._done:,}{whole} {self._operation.unit}")

    def _stop(self) -> None:
        self._work.stop.set()
        self.stop_button.disabled = True
        self._tell("stopping: what is in hand ends first …")

    def _check(self) -> None:
        """Enable Apply for the plan's own id, and refuse another one in a line."""
        self.apply_button.disabled = not self._is_confirmed()
        given = self.confirm.value.strip()
        wrong = bool(given) and not self._is_confirmed()
        expected = f"the id of the present plan, {self.plan.id}" if self.plan else "a plan's id: plan first"
        self._tell(f"{given!r} is not {expected}" if wrong else "", wrong=wrong)

    def _is_confirmed(self) -> bool:
        return self.plan is not None and self.confirm.value.strip() == self.plan.id

    def _show_plan(self) -> None:
        what = "no plan: plan first" if self.plan is None else self._operation.describe(self.plan)
        id_ = f"<code>{visible_html(self.plan.id)}</code>: " if self.plan else ""
        self.head.value = f"{id_}{visible_html(what)} on <strong>{visible_html(self._database.target)}</strong>"
        self.plan_button.description = "Plan again" if self.plan else "Plan"
        self._check()

    def _tell(self, text: str, wrong: bool = False) -> None:
        color = ' style="color:var(--jp-error-color1,#dc2626)"' if wrong else ""
        role = "alert" if wrong else "status"
        self.state.value = f'<span role="{role}"{color}>{visible_html(text)}</span>' if text else ""
