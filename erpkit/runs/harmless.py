"""Sanitizing HTML: of the output of a cell or a text cell, only what is known to be harmless is written again.

A page of a run also forbids scripts and requests by its policy (`POLICY`); this is for what a policy does not hold, such as a
page that sends its reader elsewhere or hides the rest of the report, and for programs that know no policy.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

POLICY = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; font-src data:; '
    "media-src data:; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'\">"
)

_TEXT = """a abbr b blockquote br caption cite code col colgroup dd del details dfn div dl dt em figcaption figure h1 h2 h3 h4 h5 h6
hr i img ins kbd li mark ol p picture pre q rp rt ruby s samp section small span strong sub summary sup table tbody td tfoot th
thead time tr tt u ul var wbr center font article header footer main nav address label"""
_SVG = """svg g defs path rect circle ellipse line polyline polygon text tspan textPath use symbol marker clipPath mask pattern
linearGradient radialGradient stop title desc image filter feGaussianBlur feOffset feBlend feColorMatrix feComposite feFlood
feMerge feMergeNode"""
_MATH = """math mrow mi mn mo ms mtext mspace mfrac msqrt mroot msub msup msubsup munder mover munderover mtable mtr mtd mstyle
semantics mpadded mphantom menclose"""
_TAGS = {name.lower(): name for name in f"{_TEXT} {_SVG} {_MATH}".split()}
_EMPTY = {"br", "col", "hr", "img", "wbr"}
_DROPPED = {  # with all that is in them
    "script", "style", "iframe", "object", "embed", "applet", "template", "noscript", "noembed", "noframes", "textarea", "select",
    "title", "head", "xmp", "plaintext", "foreignobject", "annotation-xml", "audio", "video", "canvas", "frameset", "animate", "set",
    "animatetransform", "animatemotion", "handler", "listener",
}  # fmt: skip
_CAMEL = """viewBox preserveAspectRatio gradientUnits gradientTransform clipPathUnits markerWidth markerHeight refX refY patternUnits
patternTransform textLength startOffset stdDeviation spreadMethod maskUnits lengthAdjust markerUnits pathLength patternContentUnits"""
_AS_SVG_SPELLS = {name.lower(): name for name in _CAMEL.split()}
_DEEPEST = 500  # elements in each other
_LINKS = {"href", "xlink:href", "src", "cite"}
_REFUSED = re.compile(
    r"on|xmlns:(?!xlink)|(?:action|formaction|srcdoc|srcset|background|ping|data|target|name|is|slot|http-equiv)$"
)
_LINK = re.compile(r"(?:https?://|mailto:|#)", re.IGNORECASE)
_IMAGE = re.compile(r"data:image/(?:png|jpeg|gif|webp|bmp|svg\+xml)[;,]", re.IGNORECASE)
_STYLE_REFUSED = re.compile(
    r"position\s*:\s*fixed|@import|expression\s*\(|javascript:|-moz-binding|behavior\s*:|\\|url\(\s*[\"']?\s*(?![\"'\s]*(?:data:|\#))",
    re.IGNORECASE,
)

# Every branch takes at least one character and none is tried twice for the same text.
_TOKEN = re.compile(
    r"""<!--.*?(?:-->|\Z)
      | <(?P<close>/?)(?P<name>[a-zA-Z][^\s/>]*)(?P<rest>(?:[^>"']|"[^"]*(?:"|\Z)|'[^']*(?:'|\Z))*+)(?:>|\Z)
      | <[!?/][^>]*(?:>|\Z)
      | (?P<text>[^<]+|<)
    """,
    re.DOTALL | re.VERBOSE,
)
_ATTRIBUTE = re.compile(r"""([^\s=/>"']+)(?:\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+)))?""")


def harmless(text: str) -> str:
    """Return HTML without active content: scripts, handlers, frames, forms, plug-ins, redirects, and requests to other hosts.

    Tables, text, links, pictures in the page itself, SVG, MathML and styles stay. What is open at its end is closed, so that it
    changes nothing around it.
    """
    return "".join(_written(text))


def _written(text: str) -> Iterator[str]:
    opened: list[str] = []
    at = 0
    while match := _TOKEN.match(text, at):
        at, name = match.end(), (match["name"] or "").lower()
        is_closed = bool(match["rest"]) and match["rest"].rstrip().endswith("/") and "svg" in opened
        if match["text"]:
            yield html.escape(html.unescape(match["text"]), quote=False)  # noqa: TID251 - a document
        elif match["close"]:
            yield from _closed(opened, name)
        elif name in _DROPPED and not (name == "title" and "svg" in opened):
            if not is_closed:
                inside, at = _end_of(name, text, at)
                yield _style(text[match.end() : inside]) if name == "style" else ""
        elif name in _TAGS and len(opened) < _DEEPEST:
            yield f"<{_TAGS[name]}{''.join(_attributes(name, match['rest']))}>"
            if is_closed:
                yield f"</{_TAGS[name]}>"
            elif name not in _EMPTY:
                opened.append(name)
    yield from (f"</{_TAGS[name]}>" for name in reversed(opened))


def _closed(opened: list[str], name: str) -> Iterator[str]:
    """Yield the ends of an element and of what was left open in it; nothing for one that is not open."""
    if name in opened:
        while (last := opened.pop()) != name:
            yield f"</{_TAGS[last]}>"
        yield f"</{_TAGS[name]}>"


def _end_of(name: str, text: str, start: int) -> tuple[int, int]:
    """Return where what is inside an element ends, and where its end tag does."""
    end = re.compile(rf"</{re.escape(name)}(?:[\s/][^>]*)?(?:>|\Z)", re.IGNORECASE).search(text, start)
    return end.span() if end else (len(text), len(text))


def _style(text: str) -> str:
    css = text.replace("<!--", "").replace("-->", "").strip()
    return "" if "<" in css or _STYLE_REFUSED.search(css) else f"<style>{css}</style>"


def _attributes(tag: str, rest: str) -> Iterator[str]:
    seen = set()
    for match in _ATTRIBUTE.finditer(rest):
        name, value = match[1].lower(), html.unescape(match[2] or match[3] or match[4] or "")
        if name in seen or not re.fullmatch(r"[a-z][a-z0-9:_-]*", name) or not _is_allowed(tag, name, value):
            continue
        seen.add(name)
        yield f' {_AS_SVG_SPELLS.get(name, name)}="{html.escape(value)}"'  # noqa: TID251 - a document


def _is_allowed(tag: str, name: str, value: str) -> bool:
    plain = re.sub(r"[\x00-\x20\x7f-\x9f\u200b-\u200f\u2028-\u202e]", "", value)
    if name in _LINKS:
        if tag in ("img", "image"):
            return bool(_IMAGE.match(plain))
        return bool(_LINK.match(plain)) and (tag == "a" or plain.startswith("#"))
    if name == "style":
        return not _STYLE_REFUSED.search(re.sub(r"/\*.*?\*/", "", value, flags=re.DOTALL))
    if "url(" in plain.lower() and _STYLE_REFUSED.search(plain):
        return False
    return not _REFUSED.match(name) and "javascript:" not in plain.lower()
