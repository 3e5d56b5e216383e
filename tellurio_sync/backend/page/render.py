"""From the content of a page to its HTML: the templates, and how they write values.

Every value that a template writes is escaped, and characters that are not seen, or that turn the text around them
(control characters, bidirectional overrides), are made visible.
"""

from __future__ import annotations

import functools
import json
import math
import re
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from . import assets

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).with_name("templates")

# C0 and C1 control characters but tab and line feed; what Unicode uses to turn the direction of text; half pairs.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


class Html(str):
    """A whole page, with the headers that allow what is in it."""

    headers: dict[str, str]


def render(
    template: str, *, scripts: tuple[str, ...] = (), styles: tuple[str, ...] = ("style.css",), **values: Any
) -> Html:
    """The page that a template makes of these values."""
    style, script = tuple(map(assets.text_of, styles)), tuple(map(assets.text_of, scripts))
    page = Html(environment().get_template(template).render(styles=style, scripts=script, **values))
    page.headers = assets.headers(style, script)
    return page


@functools.cache
def environment() -> Environment:
    """The templates. Their library is imported late: a backend that was just started has something else to do."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    made = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else visible(value),
    )
    made.filters |= {
        "number": number,
        "shown": shown,
        "short": short,
        "brief": brief,
        "duration": duration,
        "money": money,
        "count": count,
        "seconds": seconds,
        "json_block": lambda value: Markup(json_block(value)),
        "raw": Markup,
    }
    made.globals |= {"icon": assets.ICON, "uplot": assets.uplot_address(), "query": query, "utc": utc}
    return made


# What most readers look at first, with its parts.
FIRST_TEMPLATES = (
    *("base.html", "macros.html", "projects.html", "project.html"),
    *("run.html", "run_menu.html", "plot_controls.html", "usage.html"),
)


def prepare(template: str) -> None:
    """Compile a template, so that the first page that it makes comes as soon as any other."""
    environment().get_template(template)


def visible(value: Any) -> Any:
    """A text without characters that cannot be seen, or cannot be written; other values as they are."""
    return _UNSEEN.sub(_seen, value) if isinstance(value, str) else value


def _seen(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x20 or code == 0x7F:
        # The pictures of control characters.
        return chr(0x2400 + code) if code < 0x20 else "\u2421"
    return f"⟨U+{code:04X}⟩"


# --- addresses ------------------------------------------------------------------------------------


# All are relative to the page that holds them: so they are right under whatever path a proxy serves them.


def root_of(pattern: str) -> str:
    """From a page whose address is of this pattern, the address of all pages: ``./``, or as many ``../`` as it takes.

    The pattern counts, not the address: a name in it may hold anything, but no slash.
    """
    return "../" * (pattern.count("/") - 1) or "./"


def project_path(root: str, project: dict[str, Any]) -> str:
    """Where the page of a project is, from a page with this root."""
    return f"{root}{_segment(project['namespace'])}/projects/{_segment(project['slug'])}/"


def run_path(root: str, project: dict[str, Any], run: dict[str, Any]) -> str:
    """Where the page of a run is."""
    return f"{project_path(root, project)}runs/{_segment(run['uuid'])}/"


def _segment(name: str) -> str:
    return quote(name, safe="", errors="replace")


def query(values: dict[str, Any], **changed: Any) -> str:
    """A query with some values changed; None and "" leave one out."""
    merged = {**values, **changed}
    pairs = [(name, value) for name, value in merged.items() if value not in (None, "", False, [])]
    text = urlencode(pairs, doseq=True, errors="replace")
    return f"?{text}" if text else "?"


# --- values -------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """A number as text: at most five significant digits, no trailing zeros, a real minus sign."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return {"nan": "NaN", "inf": "∞", "-inf": "−∞"}[str(float(value))]
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):d}".replace("-", "−")
    return f"{value:.5g}".replace("-", "−")


def count(value: int | None) -> str:
    """A count with its thousands apart."""
    return "" if value is None else f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def money(value: float | None) -> str:
    """US dollars, small ones with the digits that matter."""
    if value is None:
        return ""
    return f"${value:.2f}" if value >= 1 or value == 0 else f"${value:.2g}"


def shown(value: Any) -> str:
    """Any JSON value in one line."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        # Beyond the range of floating point numbers it is shown as it came.
        return number(value) if isinstance(value, float) or abs(value) < 1e300 else short(str(value))
    return short(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def short(value: str, limit: int = 200) -> str:
    """The beginning of a text, and how much was left out."""
    return value if len(value) <= limit else f"{value[:limit]} … ({len(value) - limit} more characters)"


def brief(value: str, limit: int) -> str:
    """The beginning of a text in one line."""
    line = " ".join(value[: 2 * limit].split())
    return line if len(line) <= limit and len(value) <= 2 * limit else f"{line[:limit]}…"


def utc(iso: str) -> str:
    """A date as it stands in the page; where there is script, it becomes the reader's own time."""
    return f"{iso[:10]} {iso[11:19]} UTC"


def seconds(value: float) -> str:
    """A short length of time, which was measured."""
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s" if value < 60 else duration(value)


def duration(value: float) -> str:
    """A length of time in its two largest units."""
    whole = int(value)
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    for (size, unit), (smaller, small_unit) in pairwise(units):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller} {small_unit}"
    return f"{whole} s"


def age(iso: str, until: str | None = None) -> float:
    """Seconds from a date to another, or to now."""
    end = datetime.fromisoformat(until) if until else datetime.now(timezone.utc)
    return max((end - datetime.fromisoformat(iso)).total_seconds(), 0.0)


def json_block(value: Any) -> str:
    """JSON for a data block: nothing in it can end the block."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
