"""Text made fit to be shown: what would act on a terminal or on the text around it is shown as what it is."""

from __future__ import annotations

import html
import re

# Control characters of ASCII and Unicode, format characters without a picture of their own (marks and overrides of direction,
# zero width, tags), ends of lines and paragraphs, halves of surrogate pairs. Joiners stay between letters that they join.
_ACTS = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
    "|(?<![^\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f])"
)
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def visible(text: object, keep: str = "") -> str:
    r"""Return a text with each character that acts as `\n`, `\x1b` or `\u202e`; those in `keep` stay.

    Use it for what comes from elsewhere and goes to a terminal: names of tenants, tables and files, payloads, errors. What it
    returns is one line unless `keep` has the line feed.
    """
    return _ACTS.sub(
        lambda match: match[0] if match[0] in keep else _SHORT.get(match[0]) or _named(match[0]), str(text)
    )


def visible_html(text: object) -> str:
    """Return a text as HTML that shows it; lines and tabs stay as they are, as HTML makes spaces of them."""
    return html.escape(visible(text, keep="\n\t"))  # noqa: TID251 - the one place


def _named(one: str) -> str:
    code = ord(one)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
