"""A self-contained HTML page: body, styles, scripts and data put together into one text. The explorer and the study page are such pages.

What they share is in assets/: frame.html around the body, shared.css, and shared.js before a page's own scripts.
"""

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from pathlib import Path

from analogist.disk.writing import atomic_write

ASSETS = Path(__file__).parent / "assets"
HEIGHT = 740  # px, in a notebook


class HtmlPage:
    """One self-contained page. html: its text, ASCII. nbytes: its size. A notebook shows it; `save` writes it."""

    title = "Analogist"  # of the frame in a notebook

    def __init__(self, page: str) -> None:
        self.html = page
        self._bytes = page.encode("ascii")

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return len(self._bytes)

    def save(self, path: str | Path) -> Path:
        """Writes the page, whole or not at all. Raises OutputError if it cannot be written."""
        return atomic_write(path, self._bytes)

    def _repr_html_(self) -> str:
        """The page in a sandboxed frame, which can reach neither the notebook nor the network."""
        page = html.escape(self.html, quote=True)
        return (
            f'<iframe title="{html.escape(self.title)}" sandbox="allow-scripts allow-downloads" style="width:100%;height:{HEIGHT}px;'
            f'border:0" srcdoc="{page}"></iframe>'
        )


def json_text(data: dict) -> str:
    """JSON text that cannot close the HTML element around it or open another."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def build(assets: Path, body: str, style: str, scripts: Sequence[str], data: dict, title: str, chunks: Sequence[str] = ()) -> str:
    """The whole page, in ASCII only, so that the script keeps its hash in whatever encoding a browser reads it.

    assets: the folder of body, style and scripts. data: the page's manifest, JSON-ready. chunks: texts that a script unpacks on demand.
    The page's content security policy allows this one script, by its hash, and no network request.
    """
    sources = [ASSETS / "shared.js", *(assets / name for name in scripts)]
    script = '"use strict";\n(() => {\n' + "\n".join(path.read_text(encoding="utf-8") for path in sources) + "\n})();\n"
    script = "".join(one if one.isascii() else f"\\u{ord(one):04x}" for one in script)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    policy = f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'"
    stored = "\n".join(f'<script type="text/plain" id="chunk-{i}">{chunk}</script>' for i, chunk in enumerate(chunks))
    styles = [(ASSETS / "shared.css").read_text(encoding="utf-8"), (assets / style).read_text(encoding="utf-8")]
    parts = {
        "POLICY": html.escape(policy, quote=False),
        "TITLE": _ascii(html.escape(title)),
        "STYLE": "".join(styles),
        "BODY": _ascii((assets / body).read_text(encoding="utf-8").rstrip("\n")),
        "MANIFEST": json_text(data),
        "CHUNKS": stored,
        "SCRIPT": script,
    }
    pieces = [(ASSETS / "frame.html").read_text(encoding="utf-8")]
    for name, value in parts.items():  # by splitting, so that inserted text is never searched for markers
        head, tail = pieces[-1].split(f"@@{name}@@")
        pieces[-1:] = [head, value, tail]
    return "".join(pieces)


def _ascii(text: str) -> str:
    """Other characters as HTML character references."""
    return text.encode("ascii", "xmlcharrefreplace").decode()
