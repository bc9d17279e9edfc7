"""Reports opened in Debian's Chromium from disk, as a person opens them; what goes wrong in a page is collected."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pytest

from memcarve.report.html_page import page as page_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page, ViewportSize

ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
VIEWPORT: ViewportSize = {"width": 1280, "height": 900}
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


class Opened(NamedTuple):
    """A browser, and a window that most reports are opened in, one after another: a window of its own costs more."""

    browser: Browser
    window: Shown


@contextmanager
def browser() -> Iterator[Opened]:
    """Start Chromium; skip where it is missing."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield Opened(running, _window(running))
        running.close()


def _window(running: Browser, **options: Any) -> Shown:
    """Return a new window that collects what its page asks for and complains about."""
    page = running.new_context(**{"viewport": VIEWPORT, **options}).new_page()
    found = Shown(page, [], [])
    page.on("request", lambda request: found.requests.append(request.url))
    page.on("pageerror", lambda error: found.complaints.append(str(error)))
    page.on("console", lambda message: found.complaints.append(message.text))
    page.add_init_script(_VIOLATIONS)
    return found


def write(document: dict[str, Any], path: Path) -> Path:
    """Write a document as a report."""
    path.write_text("".join(page_of(str(document.get("title", "")), [json.dumps(document)])), encoding="utf-8")
    return path


@contextmanager
def shown(
    opened: Opened,
    path: Path,
    link: str = "",
    *,
    color_scheme: Literal["light", "dark"] = "light",
    viewport: ViewportSize = VIEWPORT,
    **options: Any,
) -> Iterator[Shown]:
    """Open a report; with other `options` of a window in one of its own."""
    found = _window(opened.browser, **options) if options else opened.window
    page = found.page
    try:
        page.set_viewport_size(viewport)
        page.emulate_media(color_scheme=color_scheme)
        page.goto("about:blank")
        for told in (found.requests, found.complaints):
            told.clear()
        page.goto(path.as_uri() + link)
        if options.get("java_script_enabled", True):
            page.wait_for_selector("html[data-interactive]", state="attached")
        yield found
    finally:
        if options:
            page.context.close()
        else:
            page.context.clear_permissions()
            page.emulate_media(media="screen")
