"""Telling people of a run whose outcome changed, through apprise: mail, chat, telephone, whatever it knows."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

from erpkit.errors import RunError, UsageError
from erpkit.runs.result import Outcome, RunResult
from erpkit.visible import visible

__all__ = ["is_news", "read_urls", "send_news"]

_FINDINGS = 10  # that a message holds
_KINDS = {"ok": "success", "findings": "warning"}


def is_news(before: Outcome | None, now: Outcome) -> bool:
    """Tell whether an outcome differs from the one before; a first run is expected to be ok."""
    return now != (before or "ok")


def read_urls(environ: Mapping[str, str] | None = None) -> list[str]:
    """Return apprise's URLs from ERPKIT_NOTIFY, where `env:NAME` stands for those in another variable.

    They hold tokens and passwords, so nothing ever shows them. Raises UsageError for a variable that is not set.
    """
    env = os.environ if environ is None else environ
    urls: list[str] = []
    for word in env.get("ERPKIT_NOTIFY", "").replace(",", " ").split():
        if not word.startswith("env:"):
            urls.append(word)
            continue
        name = word.removeprefix("env:")
        if not env.get(name):
            raise UsageError(f"ERPKIT_NOTIFY names the variable {name}, which is not set")
        urls += env[name].replace(",", " ").split()
    return urls


def send_news(urls: list[str], result: RunResult, before: Outcome | None) -> None:
    """Send one message about a run to all URLs; raises RunError, without a URL in it, when one did not take it."""
    try:
        import apprise  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise RunError("ERPKIT_NOTIFY needs apprise: pip install 'erpkit[notify]'") from None
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)  # its messages hold the URLs
    targets = apprise.Apprise()
    unknown = sum(not targets.add(url) for url in urls)
    sent = (
        targets.notify(body=_body(result), title=_title(result, before), notify_type=_kind(result)) if targets else None
    )
    if unknown or not sent:
        reason = f"{unknown} of its URLs cannot be understood" if unknown else "a receiver did not take the message"
        raise RunError(f"ERPKIT_NOTIFY: {reason}")


def _kind(result: RunResult) -> str:
    return _KINDS.get(result.outcome, "failure")


def _title(result: RunResult, before: Outcome | None) -> str:
    about = f" ({', '.join(result.tenants)})" if result.tenants else ""
    return visible(f"{result.notebook}{about}: {result.outcome}{f', was {before}' if before else ''}")


def _body(result: RunResult) -> str:
    more = len(result.findings) - _FINDINGS
    lines = [result.verdict, *(f"- {finding}" for finding in result.findings[:_FINDINGS])]
    lines += [f"and {more} more"] if more > 0 else []
    return "\n".join(map(visible, [*lines, f"report {result.places[1]}"]))
