"""Make text safe to show: characters that would act on a terminal or on the text around them are escaped."""

from __future__ import annotations

import html
import re

# Control characters, invisible format characters (direction marks and overrides, zero width, tags), line and paragraph separators,
# and halves of surrogate pairs. Zero-width joiners stay between letters that are not ASCII, which they may join.
_ACTS = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
    "|(?<![^\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f])"
)
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def visible(text: object, keep: str = "") -> str:
    r"""Return a text with each character that acts written as `\n`, `\x1b` or `\u202e`, except those in `keep`.

    Use it for text from elsewhere that goes to a terminal: names of tenants, tables and files, payloads, errors. The result is one
    line unless `keep` contains the line feed.
    """
    return _ACTS.sub(
        lambda match: match[0] if match[0] in keep else _SHORT.get(match[0]) or _named(match[0]), str(text)
    )


def visible_html(text: object) -> str:
    """Return a text as HTML; lines and tabs stay, as HTML shows them as spaces."""
    return html.escape(visible(text, keep="\n\t"))  # noqa: TID251 - the one place


def _named(one: str) -> str:
    code = ord(one)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
