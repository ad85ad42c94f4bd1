"""What a report makes of text cells and of outputs that a browser cannot show by itself: formulas, diagrams, pictures in files."""

from __future__ import annotations

import base64
import html
import mimetypes
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from erpkit.visible import visible_html

_LARGEST = 10_000_000  # bytes of a picture
_IMAGE = re.compile(r"<img\b[^<>]*>", re.IGNORECASE)
_SOURCE = re.compile(r"""\bsrc\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s>"']+))""", re.IGNORECASE)
_FORMULA = re.compile(
    r"\s*(?:\$\$(?P<a>.+)\$\$|\$(?P<b>[^$]+)\$|\\\[(?P<c>.+)\\\]|\\\((?P<d>.+)\\\)"
    r"|(?P<e>\\begin\{(?P<name>equation|align|gather|multline|eqnarray)(?P<star>\*?)\}.+\\end\{(?P=name)(?P=star)\}))\s*",
    re.DOTALL,
)
_ENVIRONMENT = re.compile(r"\\(begin|end)\{(equation|multline)\*?\}")


def render_markdown(source: str, attachments: Mapping[str, dict[str, str]]) -> str:
    """Return a text cell as HTML, with formulas as MathML, which browsers show without a script."""
    renderer = _Renderer(escape=False, attachments=dict(attachments), exclude_anchor_links=True)
    return str(MarkdownWithMath(renderer=renderer).render(source))


def render_formula(latex: str, *, block: bool) -> str:
    """Return LaTeX as MathML, or as its source where that cannot be made."""
    try:
        from latex2mathml.converter import convert  # noqa: PLC0415 - only where there is a formula

        return str(convert(_ENVIRONMENT.sub("", latex).strip(), display="block" if block else "inline"))
    except Exception:  # what the library raises for what it does not know is of many kinds
        return f"<pre>{visible_html(latex)}</pre>" if block else f"<code>{visible_html(latex)}</code>"


def render_latex(text: str) -> str:
    """Return an output in LaTeX as HTML: a formula as such, anything else, such as a table, as its source."""
    if match := _FORMULA.fullmatch(text):
        latex = next(group for name, group in match.groupdict().items() if group and name in "abcde")
        return render_formula(latex, block=True)
    return show_source("LaTeX", text)


def show_source(kind: str, text: str) -> str:
    """Return the source of something that is not drawn here, with its name above."""
    return f"<figure><figcaption>{visible_html(kind)}</figcaption><pre>{visible_html(text.strip())}</pre></figure>"


def embed_images(page: str, folders: Sequence[Path]) -> str:
    """Return HTML with the pictures in files, looked for in `folders`, put into it; one that cannot be is named in its place."""
    return _IMAGE.sub(lambda match: _embedded(match, folders), page)


def _embedded(tag: re.Match[str], folders: Sequence[Path]) -> str:
    found = _SOURCE.search(tag[0])
    source = html.unescape(found[1] or found[2] or found[3] or "") if found else ""
    if not found or source.lower().startswith("data:"):
        return tag[0]
    data = next((data for folder in folders if (data := _read_image(source, folder))), None)
    if data is None:
        return f"<em>[picture {visible_html(source)}: not in this report]</em>"
    return f'{tag[0][: found.start()]}src="{data}"{tag[0][found.end() :]}'


def _read_image(source: str, folder: Path) -> str | None:
    """Return a picture as the URL of its data; None for one that is elsewhere, too large, or no picture."""
    parts = urlsplit(source)
    if parts.scheme not in ("", "file") or parts.netloc:
        return None
    for name in (source, unquote(parts.path)):
        path = folder / name
        kind = mimetypes.guess_type(path.name)[0] or ""
        try:
            if kind.startswith("image/") and path.stat().st_size <= _LARGEST:
                return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
        except (OSError, ValueError):
            continue
    return None


class _Renderer(IPythonRenderer):
    """Jupyter's renderer, where formulas need no MathJax and diagrams no Mermaid."""

    def block_math(self, body: str) -> str:
        return render_formula(body, block=True)

    def inline_math(self, body: str) -> str:
        if body != body.strip():  # as in "from $5 to $6", which is none
            return f"${visible_html(body)}$"
        return render_formula(body, block=False)

    def latex_environment(self, name: str, body: str) -> str:
        return render_formula(f"\\begin{{{name}}}{body}\\end{{{name}}}", block=True)

    def block_mermaidjs(self, code: str) -> str:
        return show_source("Mermaid", code)

    def image(self, text: str, url: str, title: str | None = None) -> str:
        name = url.removeprefix("attachment:")
        if url != name and not self.attachments.get(name):  # Jupyter's renderer ends there with an error
            return f"<em>[picture {visible_html(name)}: not in the notebook]</em>"
        return str(super().image(text, url, title))


def shown_data(data: Mapping[str, Any]) -> dict[str, str]:
    """Return an output in its richest form that needs neither a kernel nor a script, as HTML where that is not a plain one."""
    texts = {kind: "".join(value) if isinstance(value, list) else str(value) for kind, value in data.items()}
    for kind in ("text/html", "image/svg+xml"):
        if kind in texts:
            return {"text/html": texts[kind]}
    for kind in ("image/png", "image/jpeg"):
        if re.fullmatch(r"[A-Za-z0-9+/=\s]+", texts.get(kind, "")):
            return {kind: texts[kind]}
    for kind, render in _RENDERED.items():
        if kind in texts:
            return {"text/html": render(texts[kind])}
    return {"text/plain": texts["text/plain"]} if texts.get("text/plain") else {}


_RENDERED: dict[str, Callable[[str], str]] = {
    "text/markdown": lambda text: render_markdown(text, {}),
    "text/latex": render_latex,
    "text/vnd.mermaid": lambda text: show_source("Mermaid", text),
}
