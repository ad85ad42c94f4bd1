"""What changed since an earlier look: findings that are new, known or gone, and how far each fact moved. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from erpkit.finding import Finding, Severity, count_problems, name_some
from erpkit.plural import count_of
from erpkit.result import to_html
from erpkit.table import Column, Table, format_value
from erpkit.visible import visible_html

MOST = 2000  # findings that a look keeps, the gravest first, so that a record stays small

_BLIND = frozenset(
    {"not read", "gone", "skipped", "no tenants", "no log"}
)  # kinds that say that something was not looked at
_GRAVEST = ("error", "warning", "info")
_NAMED = 10  # findings of each sort that a message or a report names


@dataclass(frozen=True)
class Sighting:
    """A finding as a look kept it; `key` is what makes it the same one at the next look, `since` when it was first seen."""

    key: str
    text: str
    severity: Severity
    since: datetime
    subject: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Look:
    """What was seen at one time; `figures` are what is compared besides, such as the sizes of tenants."""

    at: datetime
    facts: Mapping[str, Any] = field(default_factory=dict)
    sightings: Sequence[Sighting] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)

    def among(self, subjects: Collection[str]) -> Look:
        """Return what it says of some subjects: facts about more than these tell nothing of them."""
        return replace(self, facts={}, sightings=[one for one in self.sightings if one.subject in (*subjects, "")])

    def document(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "at": self.at.isoformat(), "facts": dict(self.facts), "figures": dict(self.figures),
            "findings": [{**asdict(one), "since": one.since.isoformat()} for one in self.sightings],
        }  # fmt: skip

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Look:
        """Read what `document` returned; raises KeyError, TypeError or ValueError for anything else."""
        found = [Sighting(**one | {"since": _time(one["since"])}) for one in document["findings"]]
        return cls(_time(document["at"]), document["facts"], found, document["figures"])


@dataclass(frozen=True)
class FactChange:
    """A fact then and now; `difference` is None where one of them is no number."""

    name: str
    before: Any
    now: Any

    @property
    def difference(self) -> float | None:
        """How much more it is now."""
        if not (is_number(self.before) and is_number(self.now)):
            return None
        difference = self.now - self.before
        return round(difference, 6) if isinstance(difference, float) else difference  # 7.7 - 7.1 is 0.6

    @property
    def moved(self) -> str:
        """The difference with its sign, or the value before."""
        if self.difference is None:
            return f"was {format_value(self.before)}"
        return format_value(self.difference, signed=True)

    def __str__(self) -> str:
        return f"{self.name} {format_value(self.now)} ({self.moved})"


@dataclass(frozen=True)
class Changes:
    """What is different since the look at `since`; None if this is the first one, so that nothing is new or known.

    `unread` are findings of subjects that could not be looked at this time: they are neither known to last nor gone. Of what is new,
    `returned` has the keys of what was there at `since`, too, and was gone in between.
    """

    at: datetime
    since: datetime | None = None
    new: tuple[Sighting, ...] = ()
    known: tuple[Sighting, ...] = ()
    gone: tuple[Sighting, ...] = ()
    unread: tuple[Sighting, ...] = ()
    facts: tuple[FactChange, ...] = ()
    returned: frozenset[str] = field(default=frozenset(), compare=False)

    @property
    def has_news(self) -> bool:
        """Whether an error or a warning is new since an earlier look."""
        return self.since is not None and any(one.severity != "info" for one in self.new)

    @property
    def ages(self) -> dict[str, str]:
        """How long each finding has been known, in words; empty at the first look."""
        if self.since is None:
            return {}
        told = {one.key: describe_age(one.since, self.since, self.at) for one in (*self.new, *self.known)}
        back = [one for one in self.new if one.key in self.returned]
        return told | {one.key: f"back {_describe_time(one.since, self.at)}" for one in back}

    @property
    def table(self) -> Table[FactChange]:
        """One row per fact that is another one than before."""
        title = f"since {self.since:%Y-%m-%d %H:%M} UTC" if self.since else ""
        empty = "No figure has changed." if self.since else "There is no earlier look to compare with."
        return Table(_FACTS, [one for one in self.facts if one.before != one.now], empty, title)

    @property
    def lines(self) -> list[str]:
        """The changes in lines: counts, then what is new, what is gone, what was not looked at, and which facts moved."""
        if self.since is None:
            return []
        moved = [str(one) for one in self.facts if one.before != one.now]
        return [
            str(self),
            *_named("new", [one.text for one in self.new]),
            *_named("gone", [f"{one.text} (since {one.since:%Y-%m-%d %H:%M})" for one in self.gone]),
            *_named("known", [f"{one.text} ({describe_age(one.since, self.since, self.at)})" for one in self.known]),
            *_named("not looked at", [one.text for one in self.unread]),
            *([f"facts: {', '.join(moved)}"] if moved else []),
        ]

    @property
    def news(self) -> list[str]:
        """The lines without what was known before, which a message need not repeat."""
        return [line for line in self.lines if not line.startswith("known: ")]

    def __str__(self) -> str:
        if self.since is None:
            return "first run: there is nothing to compare with"
        counts = {"new": self.new, "known": self.known, "gone": self.gone, "not looked at": self.unread}
        told = ", ".join(f"{len(some):,} {word}" for word, some in counts.items() if some or word != "not looked at")
        findings = told if any(counts.values()) else "no findings then or now"
        return f"since the last run ({self.since:%Y-%m-%d %H:%M} UTC): {findings}"

    def html(self) -> str:
        """Return the changes for the top of a report, whose findings tell what is new and whose figures how they moved."""
        if self.since is None:
            return '<p class="erpkit-changes">First run: there is nothing to compare with.</p>'
        groups = [
            _listed("Gone", self.gone, lambda one: f"since {one.since:%Y-%m-%d %H:%M}"),
            _listed("Not looked at this time", self.unread, lambda _: ""),
        ]
        title = str(self)
        told = visible_html(title[0].upper() + title[1:])
        return f'<div class="erpkit-changes"><p>{told}</p>{"".join(groups)}</div>'

    def document(self) -> dict[str, Any]:
        """Return the changes as plain values, which the record keeps."""
        return {
            "since": self.since and self.since.isoformat(),
            "at": self.at.isoformat(),
            **{name: [_document(one) for one in getattr(self, name)] for name in ("new", "known", "gone", "unread")},
            "facts": [
                {"name": one.name, "before": one.before, "now": one.now, "difference": one.difference}
                for one in self.facts
                if one.before != one.now
            ],
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Changes:
        """Read what `document` returned; raises KeyError, TypeError or ValueError for anything else."""
        groups: dict[str, Any] = {
            name: tuple(Sighting(**one | {"since": _time(one["since"])}) for one in document[name])
            for name in ("new", "known", "gone", "unread")
        }
        facts = tuple(FactChange(one["name"], one["before"], one["now"]) for one in document["facts"])
        since = _time(document["since"]) if document["since"] else None
        return cls(_time(document["at"]), since, facts=facts, **groups)


def compare(
    last: Look | None,
    at: datetime,
    facts: Mapping[str, Any],
    findings: Iterable[Finding],
    base: Look | None = None,
) -> Changes:
    """Compare what is seen at `at` with the `last` look; what is new is so since `base`, by default the last one.

    A finding that is no longer there is gone only if its subject was looked at. One that comes back is new, and told as such.
    """
    found = list(findings)
    earlier = {one.key: one for one in last.sightings} if last else {}
    texts = {one.text: one for one in earlier.values()}
    now = [_sight(one, earlier.get(one.key) or texts.get(str(one)), at) for one in _unique(found)[:MOST]]
    if last is None:
        return Changes(at, None, tuple(now))
    base = base or last
    blind, everywhere = _unseen(found)
    seen = {one.key for one in now} | {str(one) for one in found}
    absent = [one for one in last.sightings if one.key not in seen and one.text not in seen]
    unread = [one for one in absent if everywhere or one.subject in blind]
    return Changes(
        at, base.at,
        tuple(one for one in now if one.since > base.at),
        tuple(one for one in now if one.since <= base.at),
        tuple(one for one in absent if one not in unread),
        tuple(unread),
        tuple(FactChange(name, base.facts[name], value) for name, value in facts.items() if name in base.facts),
        frozenset(one.key for one in base.sightings),
    )  # fmt: skip


def look_after(changes: Changes, facts: Mapping[str, Any], figures: Mapping[str, Any] | None = None) -> Look:
    """Return the look that the next one is compared with: what was not looked at is remembered as it was."""
    return Look(changes.at, facts, (*changes.new, *changes.known, *changes.unread), figures or {})


def find_base(times: Sequence[datetime], now: datetime) -> datetime | None:
    """Return the look to measure growth from: the one that is nearest to a day old, else the oldest; None without any."""
    yesterday = now - timedelta(days=1)
    old = [time for time in times if time <= yesterday + timedelta(hours=4)]  # a schedule need not be punctual
    return min(old, key=lambda time: abs(time - yesterday)) if old else min(times, default=None)


def describe_age(since: datetime, base: datetime, now: datetime) -> str:
    """Return how long a finding has been known: `new since yesterday`, seen after `base`, or `for 3 days`."""
    since, base, now = (time.astimezone(UTC) for time in (since, base, now))
    if since > base:
        return f"new {_describe_time(base, now)}"
    minutes = int((now - since).total_seconds() // 60)
    if minutes < 120:
        return f"for {count_of(minutes, 'minute')}" if minutes else "for less than a minute"
    return f"for {count_of(minutes // 60, 'hour')}" if minutes < 1440 else f"for {count_of(minutes // 1440, 'day')}"


def _describe_time(time: datetime, now: datetime) -> str:
    time, now = time.astimezone(UTC), now.astimezone(UTC)
    days = (now.date() - time.date()).days
    return "since " + ("yesterday" if days == 1 else f"{time:%H:%M} UTC" if not days else f"{time:%Y-%m-%d}")


def is_number(value: object) -> bool:
    """Tell whether a fact can be compared as a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _unique(findings: Sequence[Finding]) -> list[Finding]:
    """Return each finding once, the gravest first."""
    once: dict[str, Finding] = {}
    for one in findings:
        once.setdefault(one.key, one)
    return sorted(once.values(), key=lambda one: _GRAVEST.index(one.severity))


def _sight(finding: Finding, before: Sighting | None, at: datetime) -> Sighting:
    since = before.since if before else at
    return Sighting(finding.key, str(finding), finding.severity, since, finding.subject, finding.kind)


def _unseen(findings: Sequence[Finding]) -> tuple[set[str], bool]:
    """Return the subjects that were not looked at, or not wholly, and whether that is true of all."""
    blind = {one.subject for one in findings if one.kind in _BLIND}
    return blind - {""}, "" in blind


def find_problems(document: Mapping[str, Any] | None) -> str:
    """Return how many errors and warnings a run found, by cause, from the changes that its record keeps; empty where it keeps none."""
    try:
        seen = Changes.of(document or {})
    except (KeyError, TypeError, ValueError):
        return ""
    return count_problems(
        Finding(one.kind, one.subject, _problem(one), one.severity) for one in (*seen.new, *seen.known)
    )


def _problem(sighting: Sighting) -> str:
    return sighting.text.removeprefix(f"{sighting.subject}: ") if sighting.subject else sighting.text


def _named(word: str, texts: Sequence[str]) -> list[str]:
    return [f"{word}: {one}" for one in texts[:_NAMED]] + (
        [f"{word}: {len(texts) - _NAMED:,} more"] if len(texts) > _NAMED else []
    )


def _listed(title: str, sightings: Sequence[Sighting], age: Any) -> str:
    """Return sightings as HTML, those with the same words but for the subject in one line."""
    alike: dict[tuple[Severity, str, str], list[Sighting]] = {}
    for one in sightings:
        alike.setdefault((one.severity, _problem(one), age(one)), []).append(one)
    found = []
    for (severity, problem, words), some in alike.items():
        subjects = list(dict.fromkeys(one.subject for one in some))
        text = some[0].text if len(subjects) == 1 else f"{len(subjects):,}: {problem} ({name_some(subjects)})"
        found.append(Finding("change", "", text, severity, age=words))
    return to_html(f"{title}: {len(sightings):,}", findings=found) if found else ""


def _document(sighting: Sighting) -> dict[str, Any]:
    return {**asdict(sighting), "since": sighting.since.isoformat()}


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


_FACTS = (
    Column[FactChange]("fact", lambda one: one.name),
    Column[FactChange]("before", lambda one: one.before, right=True),
    Column[FactChange]("now", lambda one: one.now, right=True),
    Column[FactChange]("change", lambda one: one.difference, signed=True, right=True),
)
