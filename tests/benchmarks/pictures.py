"""``make pictures``: take the pictures again that the README and the docs show, from runs of the demo.

Needs Chromium. Look at what it has made before it is committed.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import html
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import requests

from tellurio_sync.local import start_local_backend

from ..backend.test_page_browser import CHROMIUM, Chromium

IMAGES = Path(__file__).parents[2] / "tellurio_sync" / "docs" / "images"
SEEDS = (0, 1, 2, 3)
_TIMEOUT = 300.0
_QUALITY = 72
_TERMINAL = """<!doctype html><meta charset="utf-8"><body style="margin:0;background:#14161a"><pre style="margin:0;
padding:18px 22px;color:#dfe3ea;font:14px/1.42 DejaVu Sans Mono,monospace">{}</pre>"""


def runs_of_demo(folder: str) -> None:
    """Run the demo with some seeds; the later ones show the optimizer more of the earlier prompts."""
    for seed in SEEDS:
        command = [str(Path(sys.executable).with_name("tellurio-sync")), "demo", "--quiet", "--data-dir", folder]
        options = ["--seed", str(seed), "--momentum", str(seed + 1)]
        subprocess.run([*command, *options], check=True, timeout=_TIMEOUT, stdout=subprocess.DEVNULL)


def take(browser: Chromium, url: str, name: str, scheme: str, height: int) -> None:
    """One picture, as a screen of 1440 pixels shows it."""
    browser.resize(1440, scheme)
    browser.command("Emulation.setDeviceMetricsOverride", width=1440, height=height, deviceScaleFactor=1, mobile=False)
    browser.command("Emulation.setScrollbarsHidden", hidden=True)
    browser.open(url)
    browser.wait("document.getElementById('live').textContent.startsWith('Live')")
    keep(browser, name)


def take_demo(browser: Chromium, folder: str) -> None:
    """One picture of what the demo prints, from the learnt prompt on."""
    command = [str(Path(sys.executable).with_name("tellurio-sync")), "demo", "--data-dir", folder]
    printed = subprocess.run(command, check=True, timeout=_TIMEOUT, capture_output=True, text=True).stdout
    shown = printed[printed.index("The learnt prompt") : printed.index("Done in")].rstrip()
    page = Path(folder) / "demo.html"
    page.write_text(_TERMINAL.format(html.escape(f"$ make demo\n...\n\n{shown}")), encoding="utf-8")
    browser.command("Emulation.setDeviceMetricsOverride", width=860, height=690, deviceScaleFactor=1, mobile=False)
    browser.open(page.as_uri())
    keep(browser, "demo")


def keep(browser: Chromium, name: str) -> None:
    """Write what the browser shows now."""
    shot = browser.command("Page.captureScreenshot", format="webp", quality=_QUALITY)
    data = base64.b64decode(shot["data"])
    (IMAGES / f"{name}.webp").write_bytes(data)
    print(f"{name}.webp: {len(data) / 1000:.0f} kB")


def main() -> int:
    """Take them; the exit code is 1 where there is no browser."""
    argparse.ArgumentParser(prog="python -m tests.benchmarks.pictures", description=__doc__).parse_args()
    if CHROMIUM is None:
        print("Chromium is not installed (Debian: apt-get install chromium)")
        return 1
    with (
        tempfile.TemporaryDirectory(prefix="pictures-") as folder,
        tempfile.TemporaryDirectory(prefix="pictures-profile-", ignore_cleanup_errors=True) as profile,
        contextlib.closing(Chromium(Path(profile))) as browser,
    ):
        with tempfile.TemporaryDirectory(prefix="pictures-") as other:
            take_demo(browser, other)
        runs_of_demo(folder)
        with start_local_backend(folder) as backend:
            base = f"{backend.http_base_url}:{backend.http_port}"
            home = requests.get(backend.page_url, timeout=_TIMEOUT).text
            runs = list(dict.fromkeys(re.findall(r'href="(/local/projects/[^"]*/runs/[^"]*/)"', home)))
            browser.open(backend.page_url)  # its cookie opens the other pages
            best = runs[0]
            picked = "&".join(f"run={path.rstrip('/').rpartition('/')[2]}" for path in runs)
            take(browser, base + best, "page-run", "light", 1000)
            take(browser, f"{base}{best}prompts/1/?version=11", "page-story", "light", 1500)
            take(browser, f"{base}{best.partition('runs/')[0]}compare/?{picked}", "page-compare", "dark", 1000)
    return 0


if __name__ == "__main__":
    sys.exit(main())
