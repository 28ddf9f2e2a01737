"""A headless Chromium with software WebGL for tests that need a real browser."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"]


@contextmanager
def chromium() -> Iterator[Any]:
    """Start the browser (the system's, or Playwright's own); skip where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install 'wm3dr[browser]'")
    with api.sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
        program = shutil.which("chromium") or shutil.which("google-chrome") or (str(own) if own.exists() else None)
        if program is None:
            pytest.skip("no Chromium: apt install chromium, or playwright install chromium")
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class Page:
    """A page opened from a file, that may not touch the network and must not fail."""

    def __init__(self, browser: Any, path: Path, size: tuple[int, int]) -> None:
        self.problems: list[str] = []
        self.page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda line: self.problems.append(line.text) if line.type == "error" else None)
        self.page.on("request", lambda request: self._check_request(request.url))
        self.page.goto(path.as_uri())

    def _check_request(self, url: str) -> None:
        if not url.startswith(("file:", "data:", "blob:")):
            self.problems.append(f"asks for {url}")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.page, name)
