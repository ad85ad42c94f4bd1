"""Findings: the problem, the tenant or module that has it, its severity, and the command that helps."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from erpkit.grouping import group_by
from erpkit.plural import count_of

Severity = Literal["error", "warning", "info"]

# A time, or a figure with its unit, which changes with it as in 90 s and 2 min; digits inside of a name are none.
_FIGURE = re.compile(
    r"\d{4}-\d\d-\d\d(?:[ T][\d:.]+)?"
    r"|(?<![\w.-])[+-]?\d[\d.,:]*(?: ?(?:ms|s|min|h|d|days?|hours?|minutes?|seconds?|B|[KMG]iB)\b)?(?![\w-])"
)

_GRAVEST: tuple[Severity, ...] = ("error", "warning", "info")


@dataclass(frozen=True)
class Finding:
    """One thing that a person should look at.

    `subject` is the tenant, module, handler or run that it is about, and `of` is that word; `problem` is one sentence without the
    subject. `remedy` is a command to paste, or a sentence if no command helps. What could not be read is a finding, too. `age` says
    in words how long it has been known, where earlier looks tell; it is no part of what the finding is.
    """

    kind: str
    subject: str
    problem: str
    severity: Severity = "warning"
    remedy: str = ""
    evidence: tuple[str, ...] = ()
    of: str = "tenant"
    age: str = field(default="", compare=False)

    @property
    def key(self) -> str:
        """What makes it the same finding at the next look: kind, subject and problem, whatever the figures in it are then."""
        return "\n".join((self.kind, self.of, self.subject, _FIGURE.sub("#", self.problem)))

    def __str__(self) -> str:
        return f"{self.subject}: {self.problem}" if self.subject else self.problem


# The finding of a check that had nothing to check.
NO_TENANTS = Finding("no tenants", "", "there are no tenants", remedy="erpkit tenants create NAME")

_NONE_ACTIVE = Finding("no tenants", "", "there are no active tenants", remedy="erpkit tenants list")


def find_unserved(skipped: Collection[str] = ()) -> Finding:
    """Return the finding of work that had no tenant to work for; `skipped` are those that are not active."""
    remedy = f"erpkit tenants activate {min(skipped)}" if skipped else NO_TENANTS.remedy
    return Finding("no tenants", "", "no tenant is active, so nothing was done", remedy=remedy)


def find_skipped(skipped: Mapping[str, str], named: Collection[str]) -> list[Finding]:
    """Return a finding for each tenant that was skipped because of its status: a warning for one that was asked for by name."""
    return [
        Finding(
            "skipped", slug, f"skipped: {status}", "warning" if slug in named else "info",
            f"erpkit tenants activate {slug}",
        )
        for slug, status in skipped.items()
    ]  # fmt: skip


def find_unseen(tenants: Sized, skipped: Mapping[str, str], named: frozenset[str]) -> list[Finding]:
    """Return who was skipped, and that nobody is left in `tenants` to look at."""
    nobody = [] if tenants else [_NONE_ACTIVE if skipped else NO_TENANTS]
    return [*([] if named & skipped.keys() else nobody), *find_skipped(skipped, named)]


@dataclass(frozen=True)
class Cause:
    """Findings that only differ in their subject: one cause, which is shown in one line."""

    findings: tuple[Finding, ...]

    @property
    def severity(self) -> Severity:
        """The severity, which all of its findings share."""
        return self.findings[0].severity

    @property
    def problem(self) -> str:
        """The problem, without the subjects."""
        return self.findings[0].problem

    @property
    def subjects(self) -> tuple[str, ...]:
        """The subjects, each once."""
        return tuple(dict.fromkeys(finding.subject for finding in self.findings))

    @property
    def remedy(self) -> str:
        """The command that helps all of its subjects: one that names them all, or a loop over them."""
        return _remedy_for_all({one.subject: one.remedy for one in self.findings})

    @property
    def age(self) -> str:
        """How long its findings have been known; "" where no earlier look tells."""
        counts = Counter(finding.age for finding in self.findings if finding.age)
        if len(counts) <= 1 and sum(counts.values()) in (0, len(self.findings)):
            return "".join(counts)
        return ", ".join(f"{count:,} {age}" for age, count in counts.most_common())

    def __str__(self) -> str:
        subjects = self.subjects
        if len(subjects) == 1:
            return str(self.findings[0])
        return f"{count_of(len(subjects), self.findings[0].of)}: {self.problem} ({name_some(subjects)})"


_EACH = "$each"
_MOST_NAMED = 12  # subjects in one command; a longer one is hard to read and to paste
_PLAIN = re.compile(r"[A-Za-z0-9_][\w.-]*", re.ASCII)  # a subject that a shell takes as one word


def _remedy_for_all(remedies: Mapping[str, str]) -> str:
    """Return the command for all subjects; where none can be made of theirs, the first one, saying how many others there are."""
    (subject, remedy), *others = remedies.items()
    command, mark, comment = remedy.partition("  # ")
    form = _form(command, subject)
    if not others or form == command:
        return remedy
    alike = all(_form(other.partition("  # ")[0], one) == form for one, other in others)
    if not alike or len(others) >= _MOST_NAMED or not all(map(_PLAIN.fullmatch, remedies)):
        return f"{command}  # {f'{comment}; ' if comment else ''}and likewise for {count_of(len(others), 'other')}"
    if form.startswith(("run ", "mend ")) or "'" in form:  # a sentence, and what the shell would take literally
        return f"{remedy}, and likewise for {count_of(len(others), 'other')}"
    if form.count(_EACH) == 1 and (option := f" --tenant {_EACH}") in form:
        return f"{form.replace(option, ''.join(f' --tenant {one}' for one in remedies))}{mark}{comment}"
    return f"for each in {' '.join(remedies)}; do {form}; done{mark}{comment}"


def _form(command: str, subject: str) -> str:
    """Return a command with a variable in the place of the subject."""
    return re.sub(rf"(?<![\w.-]){re.escape(subject)}(?![\w.-])", _EACH, command) if subject else command


class _Severe(Protocol):
    @property
    def severity(self) -> Severity: ...


def marked(finding: _Severe) -> str:
    """Return a finding or a cause as a line of text: `-` before advice (`info`), `!` before what needs a look; last its age."""
    age = getattr(finding, "age", "")
    return f"{'-' if finding.severity == 'info' else '!'} {finding}{f' [{age}]' if age else ''}"


def with_ages(findings: Iterable[Finding], ages: Mapping[str, str]) -> list[Finding]:
    """Return findings, those without an age with the one that `ages` has for their `key`."""
    return [one if one.age or not ages else replace(one, age=ages.get(one.key, "")) for one in findings]


def group_findings(findings: Iterable[Finding]) -> list[Cause]:
    """Return findings by cause, the gravest first, and of those the most frequent."""
    alike = group_by(findings, lambda one: (one.severity, one.kind, one.problem, one.of))
    causes = [Cause(tuple(some)) for some in alike.values()]
    return sorted(causes, key=lambda cause: (_GRAVEST.index(cause.severity), -len(cause.subjects)))


def not_read(errors: Mapping[str, str]) -> list[Finding]:
    """Return a finding for each tenant that could not be read, with the reason."""
    return [Finding("not read", slug, reason) for slug, reason in errors.items()]


def count_problems(findings: Iterable[Finding]) -> str:
    """Return how many errors and warnings there are, of causes, not of the tenants that have them; empty without any."""
    counts = Counter(cause.severity for cause in group_findings(findings))
    told: tuple[Severity, ...] = ("error", "warning")
    return " and ".join(count_of(counts[severity], severity) for severity in told if counts[severity])


def exit_code(findings: Iterable[Finding]) -> int:
    """Return 3 if a finding is an error or a warning, else 0."""
    return 3 if any(finding.severity != "info" for finding in findings) else 0


def name_some(names: Sequence[str], most: int = 2) -> str:
    """List names; of many the first `most`, and the number of the others."""
    more = len(names) - most
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:most])} and {more:,} more"
