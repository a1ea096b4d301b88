"""The pictures of a terminal show what the commands print."""

from __future__ import annotations

import html
import re
from pathlib import Path

from tests.cli.processes import run

IMAGES = Path(__file__).parents[2] / "docs/images"


def shown(picture: str) -> list[str]:
    """Return the lines of a picture."""
    found = re.findall(r"<text[^>]*>(.*)</text>", (IMAGES / picture).read_text("utf-8"))
    return [html.unescape(each) for each in found]


def form(line: str) -> str:
    """Return a line without what differs from run to run: numbers, and who notices a timeout."""
    line = re.sub(r"CallTimeout: [\d.:]+|RemoteTimeout: \d+", "Timeout", line)
    return re.sub(r"\d+", "0", line)


def test_the_demo_prints_what_its_picture_shows() -> None:
    printed = {form(each) for each in run("demo").stdout.split("\n")}
    command, *lines = shown("demo.svg")
    assert command == "$ gtcp demo"
    assert [each for each in lines if form(each) not in printed] == []


def test_bench_prints_what_its_picture_shows() -> None:
    command, head, counts, percentiles, *bars = shown("bench.svg")
    assert command.startswith("$ gtcp bench 127.0.0.1 10000 ")
    assert form(head) == "BENCH 0.0.0.0:0 cmdid 0: 0/s, at most 0 at a time, 0 connection"
    assert form(counts) == "0 answered in 0.0 s, 0.0/s, 0 failed"
    assert percentiles.startswith("p50 ")
    assert all(re.fullmatch(r"<= +[\d.]+ ms #* +[\d.]+%", each) for each in bars)
