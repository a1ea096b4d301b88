"""The pages in a browser: on a phone and on a desktop nothing has to be scrolled sideways."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser import Browser
from tests.helpers import eventually

pytestmark = pytest.mark.programs

#: The pages' and the tables' widths that exceed the window.
TOO_WIDE = """
(() => {
  const page = document.documentElement, width = page.clientWidth;
  const found = page.scrollWidth > width ? [`the page: ${page.scrollWidth}`] : [];
  for (const each of document.querySelectorAll("table")) {
    const around = each.parentElement;
    const scrolls = getComputedStyle(around).overflowX !== "visible"
      && around.scrollWidth > around.clientWidth + 1;
    const wide = each.getBoundingClientRect().right > width + 1;
    if (scrolls || wide) found.push(each.innerText.slice(0, 60));
  }
  return found;
})()
"""


def test_no_table_needs_sideways_scrolling(built: Path, tmp_path: Path) -> None:
    pages = [each for each in sorted(built.rglob("*.html")) if "_static" not in each.parts]
    assert len(pages) > 30
    wrong = {}
    with Browser(tmp_path) as browser:
        for page in pages:
            browser.open(page.as_uri())
            shown = f"document.readyState === 'complete' && location.href === '{page.as_uri()}'"
            eventually(lambda shown=shown: browser.value(shown))
            for width in (390, 1200):
                browser.look(width, "light")
                assert browser.value("innerWidth") == width
                if found := browser.value(TOO_WIDE):
                    wrong[page.relative_to(built).as_posix(), width] = found
    assert wrong == {}


def test_a_prompt_is_bold_and_not_copied(built: Path, tmp_path: Path) -> None:
    with Browser(tmp_path) as browser:
        browser.open((built / "index.html").as_uri())
        eventually(lambda: browser.value("document.querySelector('.gp') !== null"))
        style = "getComputedStyle(document.querySelector('.gp'))"
        assert browser.value(f"{style}.fontWeight") == "700"
        assert browser.value(f"{style}.userSelect") == "none"
