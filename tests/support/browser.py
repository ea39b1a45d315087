"""A real Chromium, driven by playwright. Without one tests are skipped; in CI they fail instead."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

FLAGS = (
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
)
PATIENCE = 20_000
"""Milliseconds until something that must show counts as missing."""


def chromium() -> str:
    """The installed browser; empty when there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if (found := shutil.which(name))), "")


def need_chromium() -> str:
    """Skips the test where no browser can be had."""
    found = chromium()
    if not found:
        pytest.skip("no Chromium; tools/system.sh brings it")
    return found


@contextmanager
def launched(executable: str) -> Iterator[Browser]:
    """The browser, headless; it may run as root, where it has no sandbox."""
    flags = [*FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=flags)
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page of its own, and everything it complained about: blocked scripts, errors, failed requests."""

    def __init__(self, browser: Browser, **options: Any) -> None:
        self.context: BrowserContext = browser.new_context(**options)
        self.context.set_default_timeout(PATIENCE)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("console", self._said)

    def _said(self, message: ConsoleMessage) -> None:
        # browsers ask the demo's issuer for an icon that it has not
        if message.type in ("error", "warning") and "favicon.ico" not in str(message.location):
            self.complaints.append(f"{message.type}: {message.text}")

    def log_in(self, console: str, who: str) -> None:
        """Through the demo's issuer."""
        self.page.goto(console)
        self.page.get_by_role("link", name="Log in with your organisation").click()
        self.page.get_by_role("button", name=who, exact=True).click()
        self.page.wait_for_url(f"{console}/**")


CONTRAST = """() => {
  const parse = c => { const m = c.match(/[\\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m; };
  const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3])).concat([1]);
  const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = c => [.2126, .7152, .0722].reduce((sum, part, i) => sum + part * linear(c[i] / 255), 0);
  const dark = matchMedia('(prefers-color-scheme: dark)').matches;
  const behind = e => {
    const layers = [];
    for (; e; e = e.parentElement) layers.unshift(parse(getComputedStyle(e).backgroundColor));
    return layers.reduce((under, layer) => over(layer, under), dark ? [18, 18, 18, 1] : [255, 255, 255, 1]);
  };
  const bad = [];
  for (const e of document.querySelectorAll('body *')) {
    const text = [...e.childNodes].filter(n => n.nodeType === 3).map(n => n.textContent.trim()).join('');
    if (!text || !e.getClientRects().length || e.closest('.hidden, .skip, noscript')) continue;
    const back = behind(e), front = over(parse(getComputedStyle(e).color), back);
    const [a, b] = [light(front), light(back)].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    if (ratio < 4.5) bad.push(`${e.tagName}.${e.className} "${text.slice(0, 40)}" ${ratio.toFixed(2)}`);
  }
  return bad; }"""
"""Texts whose contrast with what is behind them is below WCAG AA (4.5)."""

WIDER = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
"""Pixels by which a page is wider than its window."""
