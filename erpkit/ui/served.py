"""Parameters in the address of a page that Voilà serves: there a button cannot run cells, but a link can load the page anew."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode

from erpkit.runs import Parameter, validate_parameters
from erpkit.runs.parameters import CONFIRMS, python_values
from erpkit.visible import visible_html

# What writes, or says what may be lost, is not set by an address, which anyone can send: there a person types the plan's id.
NEVER = frozenset({"accept", "activate", *CONFIRMS, "dry_run", "mend"})
_STYLE = "display:inline-block;padding:.4em 1.2em;border-radius:2px;text-decoration:none;color:#fff;background:#1565c0;margin:2px"


def read_link(parameters: Sequence[Parameter]) -> dict[str, Any]:
    """Return the values that the page's address sets; raises UsageError for one that is wrong. What is unknown is passed over."""
    known = {parameter.name: parameter for parameter in parameters if parameter.name not in NEVER}
    given = {
        name: value
        for name, value in parse_qsl(os.environ.get("QUERY_STRING", ""), keep_blank_values=True)
        if name in known
    }
    chosen = [known[name] for name in given]
    values: dict[str, Any] = python_values(chosen, validate_parameters(chosen, given))
    return values


def link_with(parameters: Sequence[Parameter], values: Mapping[str, Any]) -> str:
    """Return a link, which looks like a button, to this page with these values."""
    chosen = [parameter for parameter in parameters if parameter.name in values and parameter.name not in NEVER]
    plain = validate_parameters(chosen, {one.name: values[one.name] for one in chosen})
    texts = {
        name: json.dumps(value) if isinstance(value, list | dict) else "none" if value is None else str(value)
        for name, value in plain.items()
    }
    return _link("?" + urlencode(texts), "Run")


def reload_link() -> str:
    """Return a link that loads the page anew with the values that it has: all its cells are run again."""
    return _link("", "Verify: load this page anew")


def _link(href: str, text: str) -> str:
    return f'<a role="button" href="{visible_html(href)}" style="{_STYLE}">{text}</a>'
