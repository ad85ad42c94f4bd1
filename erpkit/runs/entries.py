"""What the reports of a folder say of themselves: each is read once, and remembered in a file beside them."""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from erpkit.visible import visible_html

INDEX = "index.html"
STORE = ".erpkit-index.jsonl"

_META = re.compile(r'<meta name="erpkit-run" content="([^"]*)">')
_HEAD = 16_384  # bytes of a report in which its meta is found
_SLACK = 1.5  # lines of the store for each report that is there, after which it is written anew


@dataclass(frozen=True)
class Entry:
    """A report of the folder; `name` is its file, `key` tells which runs are the same work.

    `first` is the gravest thing that it found, known since `age`, and `causes` the number of errors and warnings by cause.
    """

    name: str
    notebook: str
    title: str
    key: str
    tenants: Sequence[str]
    outcome: str
    verdict: str
    started: str
    seconds: float
    first: str = ""
    age: str = ""
    causes: int = 0


def head(facts: Mapping[str, Any]) -> str:
    """Return the line in a report's head from which the index is made."""
    return f'<meta name="erpkit-run" content="{visible_html(json.dumps(dict(facts)))}">'


def show_first(text: str, age: str, causes: int) -> str:
    """Return the gravest cause as HTML, how long it has been known, and how many others there are."""
    known = f' <span class="age">{visible_html(age)}</span>' if age else ""
    more = f" (+{causes - 1:,})" if causes > 1 else ""
    return f"{visible_html(text)}{known}{more}" if text else ""


def read_entries(folder: Path, *, remember: bool = False) -> list[Entry]:
    """Return what the reports in `folder` say of themselves, the newest first; other files are passed over.

    With `remember`, which only one process at a time may use, those that are new are written to the folder's store.
    """
    stamps, lines = _stamps(folder), _read_store(folder)
    found = {name: entry for name, (stamp, entry) in lines.items() if stamps.get(name) == stamp}
    new = {name: _read(folder / name) for name in stamps.keys() - found.keys()}
    if remember and (new or len(lines) > _SLACK * len(stamps)):
        _write_store(folder, stamps, found, new, anew=len(lines) > _SLACK * len(stamps))
    entries = [entry for entry in (found | new).values() if entry is not None]
    return sorted(entries, key=lambda entry: (entry.started, entry.name), reverse=True)


def _stamps(folder: Path) -> dict[str, list[int]]:
    with os.scandir(folder) as files:
        return {
            file.name: [status.st_mtime_ns, status.st_size]
            for file in files
            if file.name.endswith(".html") and file.name != INDEX and (status := file.stat())
        }


def _read(path: Path) -> Entry | None:
    """Return what a report says of itself; None for a page that is none of erpkit's."""
    with suppress(OSError, ValueError, TypeError), path.open(encoding="utf-8") as file:
        if found := _META.search(file.read(_HEAD)):
            return Entry(path.name, **json.loads(html.unescape(found[1])))
    return None


def _read_store(folder: Path) -> dict[str, tuple[list[int], Entry | None]]:
    """Return the last line of each report, with the time and size that it had; a line that is broken is passed over."""
    found: dict[str, tuple[list[int], Entry | None]] = {}
    with suppress(OSError), (folder / STORE).open(encoding="utf-8") as lines:
        for line in lines:
            with suppress(ValueError, TypeError, KeyError):
                name, stamp, entry = json.loads(line)
                found[name] = (stamp, Entry(**entry) if entry else None)
    return found


def _write_store(
    folder: Path, stamps: Mapping[str, list[int]], found: Mapping[str, Entry | None], new: Mapping[str, Entry | None], *, anew: bool
) -> None:  # fmt: skip
    """Add what is new to the store; a folder that cannot be written has none."""
    wanted = {**found, **new} if anew else new
    lines = [json.dumps([name, stamps[name], entry and asdict(entry)]) for name, entry in wanted.items()]
    text = "".join(f"{line}\n" for line in lines)
    with suppress(OSError):
        if anew:
            draft = folder / f"{STORE}.{os.getpid()}"
            draft.write_text(text, encoding="utf-8")
            draft.replace(folder / STORE)
            return
        with (folder / STORE).open("a", encoding="utf-8") as store:
            store.write(text)
