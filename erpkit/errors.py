"""The errors that erpkit raises on purpose: one clear line each, fit to be shown to a person."""

from __future__ import annotations

from typing import Any

from erpkit.visible import visible


class ErpkitError(Exception):
    """Anything that a person can understand and mend; the command line prints it as one line.

    `exit_code` is what the process ends with: 1 for something that failed.
    """

    exit_code = 1

    def _render_traceback_(self) -> list[str]:
        """Show one line in a notebook, too (IPython asks an exception for this)."""
        return [f"{type(self).__name__}: {visible(self, keep=chr(10))}"]


class UsageError(ErpkitError):
    """A name, parameter or option is wrong; nothing was started."""

    exit_code = 2


class PlanChangedError(UsageError):
    """The plan id that was confirmed is not the id of what would be done now; nothing was done.

    `plan` is the present plan, where it was made.
    """

    plan: Any = None

    @classmethod
    def of(cls, confirm: str, plan: Any) -> PlanChangedError:
        """Return the error for a plan that is another one by now."""
        error = cls(f"{confirm} is stale, the plan is {plan.id} by now: nothing was done; read it again")
        error.plan = plan
        return error

    @classmethod
    def check(cls, confirm: str, present: str, undone: str = "done") -> None:
        """Raise it unless `confirm` is the `present` plan's id; `undone` is what would have been done."""
        if confirm != present:
            raise cls(
                f"confirm={confirm!r} is not the id of the present plan, {present}: nothing was {undone}; read the plan again"
            )


class DatabaseError(ErpkitError):
    """The database cannot be reached, refused us, or is not as expected."""


class BrokerError(ErpkitError):
    """The broker cannot be reached, refused us, or did not acknowledge."""


class ModuleError(ErpkitError):
    """The modules of the ERP do not fit together: start-up must not go on."""


class NoModulesError(ModuleError):
    """Nothing says where the modules are, and none is installed: what reads has nothing to show, and what runs cannot start."""


class MigrationError(ErpkitError):
    """A migration file is broken, or a migration failed."""


class QueryError(ErpkitError):
    """A query file is broken, or its generated code is missing."""


class RunError(ErpkitError):
    """A notebook did not run to its end."""


class StoppedError(ErpkitError):
    """Long work was stopped before its end; it can be gone on with."""

    exit_code = 130


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def describe_error(error: BaseException) -> str:
    """Return the class of an error with the first line of its message, for errors of a library or of a module's own code."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
