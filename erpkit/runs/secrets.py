"""No secret in a run's outputs: a password is refused as a parameter, and what a reference stands for is masked."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from erpkit.errors import UsageError
from erpkit.runs.hidden import Hider

_KEYS = r"pass(?:word|wd|phrase)|pwd"
_PASSWORD = re.compile(
    rf"""(?:{_KEYS})["']?\s*=\s*[^\s&]     # libpq's and a shell's password=…, passwd=…, PGPASSWORD=…, sslpassword=…
       | ["'](?:\w*)(?:{_KEYS})["']\s*:(?!\s*(?:"env:|'env:|null|None|""|''))    # {{"password": …
       | \bpassword\s+'                    # ALTER ROLE … PASSWORD '…'
       | ://[^\s:/?\#@]*:(?!\d+(?:[/?\#]|$))[^\s@]+@   # scheme://user:password@host, but not host:port/…@
       | \bnats://[^\s:/@]+@               # a token
    """,
    re.IGNORECASE | re.VERBOSE,
)
_SECRET_KEYS = (
    r"(?:api|access|account|private|secret|shared_?access|signing|encryption)[_-]?key|secret|credentials?"
    r"|(?:access|auth|refresh|bearer|session|api|id)[_-]?token|(?:client|shared)[_-]?secret|(?:shared_?access_?)signature"
)
_ASSIGNED = re.compile(
    rf"""(?:{_SECRET_KEYS})["']?\s*[:=]\s*["']?(?!env:|["'\s$%:=(]|none\b|null\b)[^\s"'&;,]{{8,}}   # api_key=…, "secret": "…"
       | ^\s*(?:-\s+)?[\w.-]*(?:{_KEYS})\s*:\s*(?!["']?env:|null\b|~\s*$)\S+\s*(?:\#.*)?$     # YAML: password: …
       | [{{,]\s*[\w.-]*(?:{_KEYS})\s*:\s*(?!["']?env:)[^\s,}}]+                                   # YAML: {{password: …}}
    """,
    re.IGNORECASE | re.VERBOSE | re.MULTILINE,
)
_BASE62 = "[A-Za-z0-9]"
_TOKENS = re.compile(
    rf"""(?<![\w+/-])(?:
         gh[opusr]_{_BASE62}{{16,}} | github_pat_\w{{20,}} | gl(?:pat|ptt|dt|rt|cbt|ft|imt|agent|oas|soat|ffct)-[\w-]{{16,}}
       | xox[a-z]-[\w-]{{10,}} | xapp-\d-[\w-]{{10,}}                                               # Slack
       | (?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{{16}}\b                                                     # AWS
       | [sr]k_(?:live|test)_{_BASE62}{{10,}} | whsec_{_BASE62}{{16,}}                                # Stripe
       | sk-(?:proj|ant|svcacct|admin|or|lf)-[\w-]{{16,}} | sk-(?=[A-Za-z]*\d){_BASE62}{{20,}}       # OpenAI and its like
       | AIza[\w-]{{30,}} | ya29\.[\w-]{{20,}} | GOCSPX-[\w-]{{20,}}                                 # Google
       | eyJ[\w-]{{8,}}\.[\w-]{{8,}}\.[\w.-]*                                                      # JSON Web Token
       | npm_{_BASE62}{{20,}} | pypi-[\w-]{{40,}} | hf_{_BASE62}{{20,}} | do[opr]_v1_[a-f0-9]{{32,}} | hv[sbr]\.[\w-]{{20,}}
       | SG\.[\w-]{{16,}}\.[\w-]{{16,}} | SK[0-9a-f]{{32}}\b | shp(?:at|ca|pa|ss)_[a-fA-F0-9]{{32}} | dapi[0-9a-f]{{32}}
       | AGE-SECRET-KEY-1[A-Z0-9]{{20,}} | S[UAONC][A-Z2-7]{{56}}\b | \d{{8,10}}:AA[\w-]{{30,}}         # age, NATS, Telegram
       | [A-Za-z]{{2,10}}[_-](?={_BASE62}*[a-z])(?={_BASE62}*[A-Z])(?={_BASE62}*\d){_BASE62}{{30,}}(?![\w+/=-]) # of others
       )
       | -----BEGIN[A-Z ]*\ PRIVATE\ KEY
       | hooks\.slack\.com/(?:services|workflows|triggers)/\w | discord(?:app)?\.com/api/webhooks/\d | webhook\.office\.com/\w
       | [?&](?:sig|signature|x-amz-signature|x-goog-signature|access_token|token|api_?key)=[\w%+/=-]{{16,}}
       | (?i:\bauthorization\s*["']?\s*[:=]\s*["']?\w+\s+(?!env:)[\w.~+/-]{{6,}})
       | (?i:\bbearer\s+)(?=[\w.~+/-]*\d)[\w.~+/-]{{12,}} | (?i:\bbasic\s+)(?=[A-Za-z+/]*[0-9=])[A-Za-z0-9+/]{{12,}}=*(?![\w.:-])
    """,
    re.VERBOSE,
)
_SECRET_NAME = re.compile(rf"{_KEYS}|secret|token$|(?:api|access|account|private)_?key|credential", re.IGNORECASE)
_PASSWORD_NAME = re.compile(rf"(?:{_KEYS}|pin_code)$", re.IGNORECASE)
_IN_URL = re.compile(r"://[^\s:/?#@]*:([^\s@]+)@|://([^\s:/?#@]+)@")
_IN_PAIRS = re.compile(rf"(?:{_KEYS})\s*=\s*(?:'((?:[^'\\]|\\.)*)'|([^\s&]+))", re.IGNORECASE)
_CONFIGURED = ("ERPKIT_DATABASE", "ERPKIT_BROKER", "ERPKIT_NOTIFY")


def refuse_password(name: str, value: object, *, by_name: bool = True) -> None:
    """Raise UsageError for a value that holds a password or a token, however deep in it: a run writes its parameters down.

    Passwords are told by the key before them, tokens by the shapes that their makers give them.
    A reference, `env:NAME` or `service=NAME`, is none. `by_name` refuses whatever a parameter called `password` holds.
    The message does not repeat the value.
    """
    if _holds_password(name if by_name else "", value):
        raise UsageError(
            f"parameter {name} holds a password or a token, and a run records its parameters: use env:NAME, ERPKIT_DATABASE, "
            "pg_service.conf or .pgpass"
        )


def check_references(values: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> None:
    """Raise UsageError for an `env:NAME` whose variable is not set: the notebook would find that out much later."""
    env = os.environ if environ is None else environ
    for name, value in values.items():
        for missing in sorted(reference for reference in _references([value]) if not env.get(reference)):
            raise UsageError(f"parameter {name} refers to the variable {missing}, which is not set")


def _holds_password(name: str, value: object) -> bool:
    if isinstance(value, bytes | bytearray):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        if re.fullmatch(r"env:\w+", value) or not value:
            return False
        found = any(pattern.search(value) for pattern in (_PASSWORD, _ASSIGNED, _TOKENS))
        return found or bool(_SECRET_NAME.search(name)) or _holds_password(name, _read_json(value))
    if isinstance(value, Mapping):
        return any(_holds_password("", str(key)) or _holds_password(str(key), item) for key, item in value.items())
    if isinstance(value, Iterable):
        return any(_holds_password(name, item) for item in value)
    return isinstance(value, int) and not isinstance(value, bool) and bool(_PASSWORD_NAME.search(name))


def _read_json(text: str) -> object:
    """Return what a text stands for if it is JSON, as text inside JSON may be again; None for any other."""
    if not text.lstrip().startswith(("{", "[", '"')):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


class Mask:
    """Replaces by `***` what the environment keeps secret, wherever it turns up in an output.

    That is what the `env:NAME` references among `values` stand for, `PGPASSWORD`, and the passwords in erpkit's own variables,
    as they are and in the forms that programs give to text (see `Hider`).
    """

    def __init__(self, values: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> None:
        env = os.environ if environ is None else environ
        referred = [env[name] for name in _references(values.values()) if env.get(name)]
        configured = [env[name] for name in _CONFIGURED if env.get(name)]
        referred += [env[name] for text in configured for name in _references(text.split()) if env.get(name)]
        secrets = {*referred, env.get("PGPASSWORD", "")}
        for text in [*referred, *configured]:
            secrets |= _passwords(text)
        self._hider = Hider(secrets)

    def text(self, text: str) -> str:
        """Return `text` with the secrets masked."""
        return self._hider.hide(text)[0]

    def all(self, value: Any) -> Any:
        """Return a structure of dicts, lists and strings with the secrets masked in every string, keys among them."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return type(value)({self.all(key): self.all(item) for key, item in value.items()})
        return [self.all(item) for item in value] if isinstance(value, list) else value

    def streams(self, outputs: Iterable[Any]) -> None:
        """Mask in what cells printed the secrets that are split over several outputs, of one stream or of both."""
        printed = [output for output in outputs if output.get("output_type") == "stream"]
        for names in (("stdout",), ("stderr",), ("stdout", "stderr")):
            parts = [output for output in printed if output["name"] in names]
            for output, text in zip(parts, self._hider.hide(*(part["text"] for part in parts)), strict=True):
                output["text"] = text


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
