"""No secret in a run's outputs: a password is refused as a parameter, and what a reference stands for is masked."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from erpkit.errors import UsageError

__all__ = ["Mask", "check_references", "refuse_password"]

_KEYS = r"pass(?:word|wd|phrase)|pwd"
_PASSWORD = re.compile(
    rf"""(?:{_KEYS})["']?\s*=\s*[^\s&]     # libpq's and a shell's password=…, passwd=…, PGPASSWORD=…, sslpassword=…
       | ["'](?:\w*)(?:{_KEYS})["']\s*:    # {{"password": …
       | \bpassword\s+'                    # ALTER ROLE … PASSWORD '…'
       | ://[^\s:/?\#@]*:(?!\d+(?:[/?\#]|$))[^\s@]+@   # scheme://user:password@host, but not host:port/…@
       | \bnats://[^\s:/@]+@               # a token
    """,
    re.IGNORECASE | re.VERBOSE,
)
_SECRET_NAME = re.compile(rf"{_KEYS}|secret|token$|api_?key", re.IGNORECASE)
_IN_URL = re.compile(r"://[^\s:/?#@]*:([^\s@]+)@|://([^\s:/?#@]+)@")
_IN_PAIRS = re.compile(rf"(?:{_KEYS})\s*=\s*(?:'((?:[^'\\]|\\.)*)'|([^\s&]+))", re.IGNORECASE)
_CONFIGURED = ("ERPKIT_DATABASE", "ERPKIT_BROKER", "ERPKIT_NOTIFY")
_SHORTEST = 6  # a shorter word is as likely to be a part of what should be read


def refuse_password(name: str, value: object) -> None:
    """Raise UsageError for a value that holds a password, however deep in it: a run writes its parameters down.

    A reference, `env:NAME` or `service=NAME`, is none. The message does not repeat the value.
    """
    if _holds_password(name, value):
        raise UsageError(
            f"parameter {name} holds a password, and a run writes its parameters down: use env:NAME, ERPKIT_DATABASE, "
            "pg_service.conf or .pgpass"
        )


def check_references(values: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> None:
    """Raise UsageError for an `env:NAME` whose variable is not set: the notebook would find that out much later."""
    env = os.environ if environ is None else environ
    for name, value in values.items():
        for missing in sorted(reference for reference in _references([value]) if not env.get(reference)):
            raise UsageError(f"parameter {name} refers to the variable {missing}, which is not set")


def _holds_password(name: str, value: object) -> bool:
    if isinstance(value, str):
        if re.fullmatch(r"env:\w+", value) or not value:
            return False
        return bool(_PASSWORD.search(value) or _SECRET_NAME.search(name))
    if isinstance(value, Mapping):
        return any(_holds_password(str(key), item) for key, item in value.items())
    if isinstance(value, list | tuple | set):
        return any(_holds_password(name, item) for item in value)
    return False


class Mask:
    """Replaces by `***` what the environment keeps secret, wherever it turns up in an output.

    That is what the `env:NAME` references among `values` stand for, `PGPASSWORD`, and the passwords in erpkit's own variables.
    """

    def __init__(self, values: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> None:
        env = os.environ if environ is None else environ
        referred = [env[name] for name in _references(values.values()) if env.get(name)]
        configured = [env[name] for name in _CONFIGURED if env.get(name)]
        referred += [env[name] for text in configured for name in _references(text.split()) if env.get(name)]
        secrets = {*referred, env.get("PGPASSWORD", "")}
        for text in [*referred, *configured]:
            secrets |= _passwords(text)
        words = sorted((word for word in secrets if len(word) >= _SHORTEST), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, words))) if words else None

    def text(self, text: str) -> str:
        """Return `text` with the secrets masked."""
        return self._pattern.sub("***", text) if self._pattern else text

    def all(self, value: Any) -> Any:
        """Return a structure of dicts, lists and strings with the secrets masked in every string."""
        if self._pattern is None:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return type(value)({key: self.all(item) for key, item in value.items()})
        return [self.all(item) for item in value] if isinstance(value, list) else value


def _references(values: Iterable[Any]) -> set[str]:
    found: set[str] = set()
    for value in values:
        if isinstance(value, str) and (match := re.fullmatch(r"env:(\w+)", value)):
            found.add(match[1])
        elif isinstance(value, Mapping):
            found |= _references(value.values())
        elif isinstance(value, list | tuple | set):
            found |= _references(value)
    return found


def _passwords(text: str) -> set[str]:
    """Return the passwords inside a connection string or URL, quoted ones as they are and as they are meant."""
    from urllib.parse import unquote  # noqa: PLC0415

    found = {group for match in _IN_PAIRS.findall(text) for group in match if group}
    for pair in _IN_URL.findall(text):
        found |= {pair[0]} if pair[0] else set()
    return found | {unquote(word) for word in found} | {word.replace("\\", "") for word in found}
