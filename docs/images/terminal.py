"""Pictures of a terminal: ``python docs/images/terminal.py`` runs the commands and writes the SVGs.

Each is the output of a real run, of which the lines that name ports and paths are left out.
"""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
GTCP = [sys.executable, "-m", "gtcp"]

WIDTH, LINE, LEFT, TOP = 8.4, 19, 16, 28

#: The color of a line, by how it begins.
COLORS = {
    "$": "#7ee787",
    "  ->": "#79c0ff",
    "  <-": "#d2a8ff",
    "  raises": "#ff7b72",
    "  returns": "#7ee787",
}
PLAIN = "#e6edf3"


def svg(lines: list[str], title: str) -> str:
    """Return a picture of lines of text."""
    width = int(max(map(len, lines)) * WIDTH + 2 * LEFT)
    height = len(lines) * LINE + TOP + LEFT
    texts = []
    for number, line in enumerate(lines):
        color = next((c for start, c in COLORS.items() if line.startswith(start)), PLAIN)
        y = TOP + number * LINE
        place = f'x="{LEFT}" y="{y}" fill="{color}" xml:space="preserve"'
        texts.append(f"<text {place}>{html.escape(line)}</text>")
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"'
            f' font-family="monospace" font-size="14">',
            f"<title>{html.escape(title)}</title>",
            f'<rect width="{width}" height="{height}" rx="8" fill="#161b22"/>',
            *texts,
            "</svg>\n",
        ]
    )


def demo() -> list[str]:
    """Return a part of the output of ``gtcp demo``: the calls."""
    output = subprocess.run([*GTCP, "demo"], capture_output=True, text=True, check=True).stdout
    sections = output.split("\n\n")[1:-2]
    return ["$ gtcp demo", *"\n\n".join([sections[0], sections[2], sections[4]]).split("\n")]


def bench() -> list[str]:
    """Return the output of ``gtcp bench`` against the demo's server."""
    server = subprocess.Popen(
        [*GTCP, "serve", "gtcp.cli.demo.app", "--bind", "127.0.0.1:0"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert server.stderr is not None
        found = re.search(r"listening on (\S+),", server.stderr.readline())
        assert found is not None
        arguments = ["10000", '{"content": "hi"}', "--rate", "2000", "--duration", "5"]
        command = [*GTCP, "bench", found[1], *arguments]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    finally:
        server.terminate()
        server.wait()
    shown = '$ gtcp bench 127.0.0.1 10000 \'{"content": "hi"}\' --rate 2000 --duration 5'
    return [shown, *output.rstrip().replace(found[1], "127.0.0.1:8889").split("\n")]


if __name__ == "__main__":
    (HERE / "demo.svg").write_text(svg(demo(), "The output of gtcp demo"), encoding="utf-8")
    (HERE / "bench.svg").write_text(svg(bench(), "The output of gtcp bench"), encoding="utf-8")
