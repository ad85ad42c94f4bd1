"""The findings of a check for other programs: JSON, SARIF for code hosts and editors, and GitHub's annotations. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from erpkit.modules.baseline import describe_entries
from erpkit.modules.check import ModuleCheck
from erpkit.modules.kinds import FINDINGS
from erpkit.modules.wiring import Component, ModuleFinding, Place

VERSION = 1  # of the JSON document: fields are added without a new one
_SARIF = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {"error": "error", "warning": "warning", "info": "note"}
_COMMANDS = {"error": "error", "warning": "warning", "info": "notice"}


def as_document(check: ModuleCheck) -> dict[str, object]:
    """Return the result as a JSON document; `rule` is the name of a kind of finding that does not change."""
    return {
        "version": VERSION,
        "order": check.order,
        "cycle": check.cycle,
        "not_read": check.not_read,
        "findings": [_finding(finding) for finding in check.findings],
        "cycles": [describe_component(component) for component in check.components],
        "in_baseline": check.known,
    }


def describe_component(component: Component) -> dict[str, object]:
    """Return a component for JSON."""
    return {
        "modules": component.modules,
        "path": component.path,
        "declared": component.is_declared,
        "cut": component.cut.edges,
        "at_least": component.cut.at_least,
    }


def _finding(finding: ModuleFinding) -> dict[str, object]:
    document = asdict(finding) | {"severity": finding.severity, "rule": finding.rule}
    del document["grade"]
    return document


def as_sarif(check: ModuleCheck) -> dict[str, object]:
    """Return the findings as SARIF 2.1.0 (OASIS, 2020); paths are relative to the working folder."""
    kinds = list(dict.fromkeys(finding.kind for finding in check.findings))
    driver = {
        "name": "erpkit",
        "version": version("erpkit"),
        "rules": [
            {
                "id": kind.replace(" ", "-"),
                "shortDescription": {"text": FINDINGS[kind][1]},
                "defaultConfiguration": {"level": _LEVELS[FINDINGS[kind][0]]},
            }
            for kind in kinds
        ],
    }
    results = [_result(check, finding, kinds.index(finding.kind)) for finding in check.findings]
    return {"$schema": _SARIF, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}


def _result(check: ModuleCheck, finding: ModuleFinding, index: int) -> dict[str, Any]:
    first, *others = find_places(check, finding)
    print_of = "\n".join(describe_entries(finding))
    return {
        "ruleId": finding.rule,
        "ruleIndex": index,
        "level": _LEVELS[finding.severity],
        "message": {"text": _message(finding)},
        "locations": [_location(first)],
        "relatedLocations": [_location(place) for place in others],
        "partialFingerprints": {"erpkit/v1": hashlib.sha256(print_of.encode()).hexdigest()[:32]},
    }


def _location(place: Place) -> dict[str, Any]:
    uri = Path(place.path).as_uri() if place.path.startswith("/") else quote(place.path, safe="/,")
    region = {"startLine": max(place.line, 1)} | ({"startColumn": place.column} if place.column else {})
    location: dict[str, Any] = {"physicalLocation": {"artifactLocation": {"uri": uri}, "region": region}}
    return location | ({"message": {"text": place.text}} if place.text else {})


def as_annotations(check: ModuleCheck) -> Iterator[str]:
    """Yield a workflow command of GitHub Actions for each finding, at its first place."""
    for finding in check.findings:
        place, *others = find_places(check, finding)
        column = f",col={place.column}" if place.column else ""
        where = (
            f"file={_escaped(place.path, ':,')},line={max(place.line, 1)}{column},title={_escaped(finding.kind, ':,')}"
        )
        text = "\n".join([_message(finding), *(str(other) for other in others)])
        yield f"::{_COMMANDS[finding.severity]} {where}::{_escaped(text)}"


def _escaped(text: str, more: str = "") -> str:
    for character in f"%\r\n{more}":
        text = text.replace(character, f"%{ord(character):02X}")
    return text


def _message(finding: ModuleFinding) -> str:
    return f"{finding.problem}; {finding.remedy}" if finding.remedy else finding.problem


def find_places(check: ModuleCheck, finding: ModuleFinding) -> tuple[Place, ...]:
    """Return where a finding is shown: where its evidence stands, or else where its modules are described."""
    homes = (check.homes[name] for name in finding.modules if name in check.homes)
    return finding.places or tuple(Place(home, 1) for home in homes) or (Place("pyproject.toml", 1),)
