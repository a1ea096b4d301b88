"""Chromium without a window, driven by its DevTools protocol."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import eventually


class Browser:
    """One page of a browser. A context manager.

    Args:
        folder: where the browser keeps its profile.
    """

    def __init__(self, folder: Path) -> None:
        program = shutil.which("chromium") or shutil.which("chromium-browser")
        if program is None:
            pytest.skip("chromium is not installed")
        self._log = folder / "chromium.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(program, "--headless", "--no-sandbox", "--disable-gpu"),
                    *("--remote-debugging-port=0", f"--user-data-dir={folder}/profile"),
                    *("--no-first-run", "--disable-dev-shm-usage", "about:blank"),
                ],
                stdout=log,
                stderr=log,
            )
        self._numbers = itertools.count(1)
        self._socket: Any = None

    def __enter__(self) -> Browser:
        import http.client

        import websocket

        marker = "DevTools listening on ws://"
        eventually(lambda: marker in self._log.read_text(errors="replace"))
        where = self._log.read_text(errors="replace").split(marker)[1].split("/")[0]
        connection = http.client.HTTPConnection(where, timeout=20)
        connection.request("GET", "/json/list")
        pages = json.load(connection.getresponse())
        connection.close()
        page = next(each for each in pages if each["type"] == "page")
        self._socket = websocket.create_connection(
            page["webSocketDebuggerUrl"], timeout=20, suppress_origin=True
        )
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._socket is not None:
            self._socket.close()
        self._process.kill()
        self._process.wait()

    def do(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol; return its result."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def open(self, url: str) -> None:
        """Open a page."""
        self.do("Page.navigate", url=url)

    def value(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        answer = self.do("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key."""
        code = {"Tab": 9, "Enter": 13}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.do(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key,
                windowsVirtualKeyCode=code, **(text if kind == "keyDown" else {}),
            )  # fmt: skip

    def look(self, width: int, scheme: str) -> None:
        """Have a window of this width, and prefer this scheme of colors."""
        self.do(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.do("Emulation.setEmulatedMedia", features=features)

    def screenshot(self) -> bytes:
        """Return a picture of the window, as PNG."""
        return base64.b64decode(self.do("Page.captureScreenshot")["data"])
