"""The static files of the pages: style and scripts, the one library, and the headers that allow only these.

The style and the package's own scripts are part of each page, and the Content-Security-Policy names them by their
hashes. So a page is one request, and one more if it has plots.  Each script is a module that does not use the others:
they meet in the document.
"""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
from pathlib import Path
from typing import NamedTuple

STATIC = Path(__file__).with_name("static")

# The licence stands beside it (MIT).
UPLOT = "uPlot.iife.min.js"

ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath d='M1 13 6 7l3 3 6-8'"
    " fill='none' stroke='%232f5fb3' stroke-width='2.5' stroke-linecap='round' stroke-linejoin='round'/%3E%3C/svg%3E"
)

_TYPES = {".js": "text/javascript", ".css": "text/css", ".txt": "text/plain"}


class StaticFile(NamedTuple):
    """A file as it is sent."""

    content: bytes
    compressed: bytes
    content_type: str


@functools.cache
def text_of(name: str) -> str:
    """The text of a style or script, as it stands in a page."""
    return (STATIC / name).read_text(encoding="utf-8")


@functools.cache
def static_file(name: str) -> StaticFile | None:
    """A file that pages fetch; None if there is none of this name."""
    if name != UPLOT:
        return None
    content = (STATIC / name).read_bytes()
    return StaticFile(content, gzip.compress(content, 9, mtime=0), _TYPES[Path(name).suffix])


@functools.cache
def uplot_address() -> str:
    """Where the library is, from the root: that changes with the version, so that browsers may keep the file."""
    digest = hashlib.sha256((STATIC / UPLOT).read_bytes()).hexdigest()[:12]
    return f"static/{digest}/{UPLOT}"


def policy_of_file(styles: tuple[str, ...], scripts: tuple[str, ...]) -> str:
    """The policy of a file that holds all it needs: it may not ask anybody for anything."""
    style, script = " ".join(map(_hash, styles)), " ".join(map(_hash, scripts))
    return f"default-src 'none'; style-src {style}; script-src {script}; img-src data: blob:"


@functools.cache
def headers(styles: tuple[str, ...], scripts: tuple[str, ...]) -> dict[str, str]:
    """The headers of a page that holds these styles and scripts, and no other active content."""
    policy = [
        "default-src 'none'",
        f"style-src {' '.join(map(_hash, styles)) or _NONE}",
        # 'self' is for the one library; everything else here is sent as something that is no script (nosniff).
        f"script-src {' '.join(map(_hash, scripts))} 'self'" if scripts else f"script-src {_NONE}",
        "connect-src 'self'",
        "img-src data: blob:",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
    return {"Content-Security-Policy": "; ".join(policy), **PLAIN_HEADERS}


_NONE = "'none'"

# Of everything that is sent, also of what is no page.
PLAIN_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # So that a form says where it comes from, and other sites learn nothing.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
