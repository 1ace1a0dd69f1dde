"""Looks at a report in headless Chromium: pictures at two widths, light and dark, times, whether it keeps to itself.

    pip install playwright; apt-get install chromium    # or: playwright install chromium
    python benchmarks/look_at_report.py report.html --out FOLDER

Prints JSON: seconds from asking for the page to its load event and to a ready viewer (of a new browser each, `--loads`
times), milliseconds of the viewer's operations until the next frame is drawn, by width whether the page scrolls
sideways, every request that was not for the file itself, and what scripts complained about.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SIZES = {"wide": (1280, 900), "phone": (390, 844)}
READY = "html[data-viewer], body:not(:has(#viewer))"  # waited for as a selector: the page forbids eval()
# Milliseconds from a step until the frame after it is drawn.
TIMED = """async () => {{
    const begun = performance.now();
    {step};
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    return performance.now() - begun;
}}"""
# The viewer's operations as a user does them; searching waits 120 ms for the next letter, which is not counted.
STEPS = {
    "filter: rankers differ": "set('by-kind', 'differ')",
    "filter: A better than B": "set('by-kind', 'beats')",
    "filter: one task": "set('by-task', '0')",
    "filter: all again": "set('by-task', ''); set('by-kind', 'all')",
    "order: largest difference": "set('by-order', 'spread')",
    "first search": "byId('by-text').value = 'film 7'; filter()",
    "next search": "byId('by-text').value = 'film 77'; filter()",
    "search taken back": "byId('by-text').value = ''; filter()",
    "scroll to the middle": "byId('rows').scrollTop = byId('rows').scrollHeight / 2",
    "scroll on": "byId('rows').scrollTop += 3000",
    "next list (j)": "byId('rows').dispatchEvent(new KeyboardEvent('keydown', {key: 'j', bubbles: true}))",
    "last list (End)": "byId('rows').dispatchEvent(new KeyboardEvent('keydown', {key: 'End', bubbles: true}))",
}
SET = """() => {
    window.set = (id, value) => {
        byId(id).value = value;
        byId(id).dispatchEvent(new Event('change', {bubbles: true}));
    };
}"""


@contextmanager
def browser() -> Iterator[Any]:
    """A headless Chromium: the system's, else playwright's own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # As root, as in a container, Chromium starts without its sandbox only.
        own = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        try:
            yield own
        finally:
            own.close()


@contextmanager
def opened(chromium: Any, path: Path, *, size: str = "wide", scheme: str = "light") -> Iterator[tuple[Any, Any]]:
    """The report's page, its viewer ready, and what it did meanwhile: requests, complaints, dialogs."""
    width, height = SIZES[size]
    context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    seen: dict[str, list[str]] = {"requests": [], "complaints": [], "dialogs": []}
    page.on("request", lambda request: seen["requests"].append(request.url))
    page.on("console", lambda message: seen["complaints"].append(message.text))
    page.on("pageerror", lambda error: seen["complaints"].append(str(error)))
    page.on("dialog", lambda dialog: (seen["dialogs"].append(dialog.message), dialog.dismiss()))
    page.goto(path.absolute().as_uri())
    page.wait_for_selector(READY, state="attached")
    seen["requests"] = [url for url in seen["requests"] if url != path.absolute().as_uri()]
    try:
        yield page, seen
    finally:
        context.close()


def loading(path: Path) -> dict[str, float]:
    """Seconds to the load event and to a ready viewer, in a browser that has not seen the page."""
    with browser() as chromium:
        page = chromium.new_page()
        begun = time.perf_counter()
        page.goto(path.absolute().as_uri(), wait_until="load")
        loaded = time.perf_counter() - begun
        page.wait_for_selector(READY, state="attached")
        return {"load": round(loaded, 3), "viewer ready": round(time.perf_counter() - begun, 3)}


def operations(chromium: Any, path: Path) -> dict[str, float]:
    """Milliseconds of each of the viewer's operations until its frame is drawn."""
    with opened(chromium, path) as (page, _):
        if not page.query_selector("#viewer"):
            return {}
        page.locator("#viewer").scroll_into_view_if_needed()
        page.evaluate(SET)
        return {name: round(page.evaluate(TIMED.format(step=step)), 1) for name, step in STEPS.items()}


def picture(chromium: Any, path: Path, out: Path, size: str, scheme: str) -> dict[str, Any]:
    """Pictures of the page, its viewer and a figure's dialog; whether the page is wider than its window."""
    with opened(chromium, path, size=size, scheme=scheme) as (page, seen):
        wide = page.evaluate("document.documentElement.scrollWidth")
        name = f"{size}-{scheme}"
        page.screenshot(path=out / f"{name}.png")
        for section in ("tables", "figures", "lists", "data", "provenance"):
            for _ in range(2):  # what comes into sight is laid out only then, and may shift the rest
                page.evaluate(f"document.getElementById('{section}').scrollIntoView()")
                page.wait_for_timeout(200)
            page.screenshot(path=out / f"{name}-{section}.png")
        if tested := page.query_selector("td:has(sup) a.value"):
            page.check("#show-intervals")
            page.evaluate("document.querySelector('.results').scrollIntoView()")
            page.screenshot(path=out / f"{name}-intervals.png")
            tested.click()
            page.wait_for_selector("#detail[open]")
            page.screenshot(path=out / f"{name}-detail.png")
        return {"page": wide, "window": SIZES[size][0], "sideways": wide > SIZES[size][0], **seen}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--out", type=Path, help="folder for the pictures; without it none are taken")
    parser.add_argument("--loads", type=int, default=3)
    args = parser.parse_args()
    found: dict[str, Any] = {
        "bytes": args.report.stat().st_size,
        "seconds": [loading(args.report) for _ in range(args.loads)],
    }
    with browser() as chromium:
        found["chromium"] = chromium.version
        found["milliseconds"] = operations(chromium, args.report)
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            found["windows"] = {
                f"{size}, {scheme}": picture(chromium, args.report, args.out, size, scheme)
                for size in SIZES
                for scheme in ("light", "dark")
            }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
