"""The open dead letters of an installation, to be looked at, mended, retried and discarded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from erpkit import events
from erpkit.database import Connection, Tenant
from erpkit.erp.installation import Installation
from erpkit.events.letter_plan import OpenLetters
from erpkit.plan import Plan, Work
from erpkit.tenants.mend import MendPlan, MendRun, plan_mend


@dataclass(frozen=True, repr=False)
class DeadLetters(OpenLetters):
    """The open dead letters of some tenants, and what can be done about them."""

    installation: Installation = field(kw_only=True)
    named: frozenset[str] = field(default=frozenset(), kw_only=True)

    def __dir__(self) -> Iterable[str]:
        return set(super().__dir__()) - {"installation"}

    def show_oldest(self, *, payload: bool = False) -> events.DeadLetterDetail | str:
        """Return the letter that failed first with its event's metadata, or a sentence where there is none."""
        letter = self.oldest
        if letter is None:
            return "no dead letter is chosen"
        (tenant,) = (tenant for tenant in self.tenants if tenant.slug == letter.tenant)
        return events.show_dead_letter(
            self.installation.database, tenant, letter.offset, letter.handler, payload=payload
        )

    def mend(self, statement: str) -> Plan[MendPlan, MendRun]:
        """Plan to run SQL once for each tenant that has such letters, each in a transaction; `{schema}` stands for its schema."""
        affected = [tenant for tenant in self.tenants if tenant.slug in self.affected]
        return plan_mend(self.installation.database, affected, statement)

    def retry(self) -> Plan[events.LetterPlan, events.LetterRun]:
        """Plan to hand these letters to their handlers once more; letters that failed since then are in it, too."""
        registry = self.installation.registry
        return self._plan(lambda connection: events.plan_retry(connection, self._find(), registry, self.selection))

    def discard(self, reason: str) -> Plan[events.LetterPlan, events.LetterRun]:
        """Plan to give these letters up, for a reason that is kept with them: what the handler would have done is never done."""
        return self._plan(lambda connection: events.plan_discard(connection, self._find(), reason, self.selection))

    def _find(self) -> Sequence[Tenant]:
        return self.installation.find([tenant.slug for tenant in self.tenants]) if self.tenants else []

    def _plan(self, plan_of: Callable[[Connection], events.LetterPlan]) -> Plan[events.LetterPlan, events.LetterRun]:
        erp = self.installation

        def make(_: Work) -> events.LetterPlan:
            with erp.database.connection() as connection:
                return replace(plan_of(connection), named=self.named, found=len(self.tenants))

        def run(plan: events.LetterPlan, work: Work) -> events.LetterRun:
            done = events.run_letters(erp.database, erp.registry, plan, plan.id, work.advance)
            return replace(done, errors=plan.errors)

        return Plan(make(Work()), make, run, self.target, "letters", can_stop=False)
