"""Older clients and servers go on with today's: transcripts of theirs are replayed.

A change that breaks one of these needs a line in docs/reference/wire.md.
"""

from __future__ import annotations

import json
import socket
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gtcp
from tests.helpers import Line, serving
from tests.wire.script import calls, server

TRANSCRIPTS = sorted(Path(__file__).parent.glob("*.json"))


@pytest.fixture(params=TRANSCRIPTS, ids=lambda path: path.stem)
def transcript(request: pytest.FixtureRequest) -> Any:
    return json.loads(request.param.read_text())


def sent(transcript: Any, direction: str) -> list[Any]:
    return [json.loads(line) for way, line in transcript["lines"] if way == direction]


def comparable(reply: dict[str, Any]) -> dict[str, Any]:
    """A reply without what differs from run to run."""
    if reply["code"] == 500:
        return {"code": 500, "id": reply["id"]}
    return reply


def test_there_are_transcripts() -> None:
    assert TRANSCRIPTS


def test_an_older_client_gets_the_same_replies(transcript: Any) -> None:
    """Its lines are sent as they were; what is compared is every reply, by its id."""
    expected = {each["id"]: each for each in sent(transcript, "<") if "id" in each}
    with serving(server()) as running, Line(running.address) as line:
        seen = {}
        for way, text in transcript["lines"]:
            if way == ">":
                line.send(text.encode())
            elif "id" in json.loads(text):
                reply = line.reply()
                seen[reply["id"]] = reply
    assert {key: comparable(each) for key, each in seen.items()} == {
        key: comparable(each) for key, each in expected.items()
    }


class OlderServer:
    """Answers requests as the transcript's server did: found by command and params."""

    def __init__(self, transcript: Any) -> None:
        replies = {each["id"]: each for each in sent(transcript, "<") if "id" in each}
        self._answers: defaultdict[str, list[Any]] = defaultdict(list)
        for each in sent(transcript, ">"):
            if each.get("id") in replies:
                self._answers[self._key(each)].append(replies[each["id"]])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.unknown: list[Any] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _key(self, request: dict[str, Any]) -> str:
        return json.dumps([request["cmdid"], request.get("params")], sort_keys=True)

    def _serve(self) -> None:
        sock, _ = self._listener.accept()
        with sock:
            for line in sock.makefile("rb"):
                request = json.loads(line)
                answers = self._answers[self._key(request)]
                if request.get("oneway"):
                    continue
                if not answers:
                    self.unknown.append(request)
                    continue
                reply = {**answers.pop(0), "id": request["id"]}
                if reply["code"] != 408:  # today's client gives up by itself
                    sock.sendall(json.dumps(reply).encode() + b"\n")


@pytest.fixture
def older_server(transcript: Any) -> Iterator[OlderServer]:
    made = OlderServer(transcript)
    yield made
    made.close()


def test_todays_client_gets_the_same_from_an_older_server(
    transcript: Any, older_server: OlderServer
) -> None:
    with gtcp.Client(older_server.address) as client:
        found = calls(client)
    assert older_server.unknown == []
    assert json.loads(json.dumps(found)) == transcript["outcomes"]
