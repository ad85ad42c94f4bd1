"""The errors that erpkit raises: one clear line each, which is shown to people."""

from __future__ import annotations

from typing import Any

from erpkit.visible import visible


class ErpkitError(Exception):
    """An error that a person can understand and fix; the command line prints it as one line.

    `exit_code` is the exit code of the process: 1 for a failure.
    """

    exit_code = 1

    def _render_traceback_(self) -> list[str]:
        """Show one line in a notebook, too: IPython calls this method."""
        return [f"{type(self).__name__}: {visible(self, keep=chr(10))}"]


class UsageError(ErpkitError):
    """A name, parameter or option is wrong; nothing was started."""

    exit_code = 2


class NoTenantError(UsageError, KeyError):
    """No tenant, or more than one, has this name: `erp.tenants[name]` is a look-up in a mapping, too."""

    __str__ = Exception.__str__


class TenantNotActiveError(UsageError):
    """A tenant is suspended, archived, or on its way there: nothing was done."""


class PlanChangedError(UsageError):
    """The confirmed id is not the id of the present plan; nothing was done.

    `plan` is the present plan, if there is one.
    """

    plan: Any = None

    @classmethod
    def of(cls, confirm: str, plan: Any) -> PlanChangedError:
        """Return the error for a plan that has changed."""
        error = cls(f"{confirm} is stale: the plan is now {plan.id}; nothing was done: read the plan again")
        error.plan = plan
        return error

    @classmethod
    def check(cls, confirm: str, present: str, undone: str = "done") -> None:
        """Raise the error unless `confirm` is the `present` plan's id; `undone` completes "nothing was …"."""
        if confirm != present:
            raise cls(
                f"{confirm!r} is not the id of the present plan, {present}: nothing was {undone}; read the plan again"
            )


class DatabaseError(ErpkitError):
    """The database cannot be reached, refuses a statement, or is not as expected."""


class CommitUnknownError(DatabaseError):
    """The connection was lost during a commit: whether the data were written must be looked up before writing them again."""


class BrokerError(ErpkitError):
    """The broker cannot be reached, refuses a message, or does not acknowledge it."""


class ModuleError(ErpkitError):
    """The modules of the ERP do not fit together, so that it must not start."""


class NoModulesError(UsageError, ModuleError):
    """There are no modules: none is configured and none is installed."""


class MigrationError(ErpkitError):
    """A migration file is broken, or a migration failed."""


class QueryError(ErpkitError):
    """A query file is broken, or its generated code is missing."""


class RunError(ErpkitError):
    """A notebook did not run to its end."""


class AbortedRunError(RunError):
    """A run was refused or broken off by what is no cell of it, such as a full disk; its process lives, and it has no result."""


class StoppedError(ErpkitError):
    """Long work was stopped before its end; it can be continued."""

    exit_code = 130


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the error's class if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def describe_error(error: BaseException) -> str:
    """Return the class and the first line of an error, for errors of libraries and of modules' code."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
