"""The baseline: findings that were there when a check became a gate, so that only new ones fail."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from erpkit.errors import UsageError
from erpkit.modules.kinds import NOT_READ
from erpkit.modules.wiring import IN_CODE, ModuleFinding

VERSION = 1
_CYCLES = ("cycle", "hidden cycle")
# What was not read is never known, and what is said of the rules is said until they are changed.
NEVER = frozenset({NOT_READ, "no modules", "expired allowance", "unused allowance", "no longer happens"})
_LINE = re.compile(r"(?<=[\w.]):\d+(:\d+)?(?=\W|$)")


@dataclass(frozen=True, order=True)
class Entry:
    """One piece of evidence of a finding, without its line: lines move. Of a cycle, its modules are all that counts."""

    rule: str
    modules: tuple[str, ...]
    evidence: str

    def __str__(self) -> str:
        return f"{self.rule}: {', '.join(self.modules)}: {self.evidence}"


@dataclass(frozen=True)
class Baseline:
    """The entries of a file."""

    entries: frozenset[Entry] = frozenset()
    path: str = ""

    def filter(
        self,
        findings: Iterable[ModuleFinding],
        never: Collection[str] = NEVER,
        unseen: Collection[str] = (),
        *,
        only_code: bool = False,
    ) -> tuple[list[ModuleFinding], int]:
        """Return what is new of some findings and what no longer happens, and how many findings are known; `never` are kinds.

        Of modules that were not seen whole, `unseen`, it cannot be told what no longer happens, and with `only_code`
        not of couplings in the database, which was not asked.
        """
        met: set[Entry] = set()
        fresh: list[ModuleFinding] = []
        known = 0
        for finding in findings:
            entries = [] if finding.kind in never else _entries(finding)
            met.update(found for entry in entries if (found := self._find(entry)))
            news = {entry.evidence for entry in entries if self._find(entry) is None}
            if entries and not news:
                known += 1
            else:
                fresh.append(_only(finding, news) if len(news) < len(entries) else finding)
        seen = (one for one in self.entries - met if _is_of_code(one) or not only_code)
        return [*fresh, *_gone(one for one in seen if not {*one.modules} & {*unseen})], known

    def _find(self, entry: Entry) -> Entry | None:
        """Return the entry that covers another: itself, or for a cycle one of all its modules."""
        if entry in self.entries:
            return entry
        if entry.rule not in [kind.replace(" ", "-") for kind in _CYCLES]:
            return None
        around = (one for one in self.entries if one.rule == entry.rule and {*entry.modules} <= {*one.modules})
        return min(around, default=None)


def read_baseline(path: Path | None) -> Baseline:
    """Read a baseline, an empty one where there is no such file; raises UsageError for a file that is none."""
    if path is None or not path.exists():
        return Baseline()
    try:
        document: Any = json.loads(path.read_bytes())
        if document["version"] != VERSION:
            raise UsageError(f"{path}: version {document['version']} of a baseline, not {VERSION}: write it anew")
        entries = [
            Entry(str(found["rule"]), tuple(map(str, found["modules"])), str(evidence))
            for found in document["findings"]
            for evidence in found["evidence"]
        ]
    except OSError as error:
        raise UsageError(f"{path}: the baseline cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UsageError(f"{path}: is not a baseline: write it with `erpkit modules check --baseline`") from None
    return Baseline(frozenset(entries), str(path))


def write_baseline(path: Path, findings: Sequence[ModuleFinding], never: Collection[str] = NEVER) -> int:
    """Write the findings that fail a check as its baseline, but for some kinds, and return how many.

    Raises UsageError where it cannot be written.
    """
    failing = [finding for finding in findings if finding.severity != "info" and finding.kind not in never]
    found: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for entry in sorted({entry for finding in failing for entry in _entries(finding)}):
        found.setdefault((entry.rule, entry.modules), []).append(entry.evidence)
    listed: list[Mapping[str, object]] = [
        {"rule": rule, "modules": modules, "evidence": evidence} for (rule, modules), evidence in found.items()
    ]
    text = json.dumps({"version": VERSION, "findings": listed}, indent=2, ensure_ascii=False)
    try:
        path.write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: the baseline cannot be written: {error.strerror}") from None
    return len(failing)


def describe_entries(finding: ModuleFinding) -> list[str]:
    """Return what identifies a finding from one version of the code to the next."""
    return sorted(str(entry) for entry in _entries(finding)) or [f"{finding.rule}: {_without_line(finding.problem)}"]


def _entries(finding: ModuleFinding) -> list[Entry]:
    if finding.kind in _CYCLES:
        return [Entry(finding.rule, tuple(sorted(finding.modules)), "")]
    return [
        Entry(finding.rule, finding.modules, _without_line(text)) for text in finding.evidence or (finding.problem,)
    ]


def _is_of_code(entry: Entry) -> bool:
    """Tell whether what an entry says is seen without the database."""
    return entry.evidence.partition(":")[0] in IN_CODE


def _without_line(text: str) -> str:
    return _LINE.sub("", text)


def _only(finding: ModuleFinding, news: set[str]) -> ModuleFinding:
    """Return a finding with its new evidence alone."""
    evidence = tuple(text for text in finding.evidence if _without_line(text) in news)
    places = tuple(place for place in finding.places if not place.text or _without_line(place.text) in news)
    return replace(finding, evidence=evidence, places=places)


def _gone(entries: Iterable[Entry]) -> list[ModuleFinding]:
    remedy = "if it is gone for good, write the baseline anew: erpkit modules check --baseline"
    return [
        ModuleFinding(
            "no longer happens",
            entry.modules,
            f"the baseline has {entry.rule} of {', '.join(entry.modules) or 'the modules'}, which was not found",
            remedy,
            (entry.evidence,) if entry.evidence else (),
        )
        for entry in sorted(entries)
    ]
