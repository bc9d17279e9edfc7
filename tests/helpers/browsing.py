"""Reports opened in Debian's Chromium from disk, as a person opens them; what goes wrong in a page is collected."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from memcarve.report.html_page import page as page_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
_VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) =>
  violations.push(`${event.violatedDirective} ${event.blockedURI}`));
"""


class Shown(NamedTuple):
    """A page, and what it asked for and complained about."""

    page: Page
    requests: list[str]
    complaints: list[str]

    def text(self, selector: str) -> str:
        """Return the text that is seen of an element."""
        return self.page.locator(selector).inner_text()

    def press(self, *keys: str) -> None:
        """Press keys with the picture in focus."""
        self.page.locator("#picture").focus()
        for key in keys:
            self.page.keyboard.press(key)

    def range(self) -> tuple[int, int]:
        """Return the first and last address that the picture shows."""
        self.settle()
        first, last = self.text("#shown").split("-")
        return int(first, 16), int(last, 16)

    def settle(self) -> None:
        """Wait until what was asked for is drawn."""
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


@contextmanager
def browser() -> Iterator[Browser]:
    """Start Chromium; skip where it is missing."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield running
        running.close()


def write(document: dict[str, Any], path: Path) -> Path:
    """Write a document as a report."""
    path.write_text("".join(page_of(str(document.get("title", "")), [json.dumps(document)])), encoding="utf-8")
    return path


@contextmanager
def shown(running: Browser, path: Path, link: str = "", **options: Any) -> Iterator[Shown]:
    """Open a report in a window of its own; `options` are of the window."""
    context = running.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    try:
        page = context.new_page()
        found = Shown(page, [], [])
        page.on("request", lambda request: found.requests.append(request.url))
        page.on("pageerror", lambda error: found.complaints.append(str(error)))
        page.on("console", lambda message: found.complaints.append(message.text))
        page.add_init_script(_VIOLATIONS)
        page.goto(path.as_uri() + link)
        if options.get("java_script_enabled", True):
            page.wait_for_selector("html[data-interactive]", state="attached")
        yield found
    finally:
        context.close()
