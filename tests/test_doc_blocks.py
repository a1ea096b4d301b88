"""The tool that tests the documents, tested. In the documents here, ''' stands for a fence."""

import textwrap

import pytest

from tests.doc_blocks import DocFailure, run_document


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.delenv("TEST_PROGRAMS", raising=False)

    def run(text, **options):
        path = tmp_path / "page.md"
        path.write_text(textwrap.dedent(text).replace("'''", "```"))
        run_document(path, tmp_path, **options)

    return run


HOLDS = {
    "python blocks share names": """
        '''python
        x = 1
        '''
        '''python
        assert x == 1
        '''
    """,
    "arrow comments": """
        '''python
        {"content": "Hello"}  # -> {'content': 'Hello'}
        object()              # -> <object object at 0x...>
        print("é", 1)         # -> é 1
        None                  # ->
        '''
    """,
    "a named block is written, and can be imported and run": """
        '''python
        # pkg/app.py
        ANSWER = 42
        '''
        '''toml
        # gtcp.toml
        port = 1
        '''
        '''python
        from pkg.app import ANSWER as again
        assert ANSWER == again
        '''
        '''console
        $ cat pkg/app.py gtcp.toml
        # pkg/app.py
        ANSWER = 42
        # gtcp.toml
        port = 1
        $ python -c 'from pkg import app; print(app.ANSWER)'
        42
        '''
    """,
    "a block marked write is not run": """
        <!-- write -->
        '''python
        # app.py
        1 / 0
        '''
        '''console
        $ tail -n 1 app.py
        1 / 0
        '''
    """,
    "type hints resolve": """
        '''python
        from __future__ import annotations
        import typing
        class Greet: content: Other
        class Other: pass
        assert typing.get_type_hints(Greet) == {"content": Other}
        '''
    """,
    "console output with wildcard": r"""
        '''console
        $ echo one; echo 'two 2 three' >&2
        one
        two ... three
        $ echo four \
        >   five
        four five
        $ cat <<END
        > six
        > END
        six
        $ echo not compared
        '''
    """,
    "an exit status that is expected": """
        <!-- exit: 2 -->
        '''sh
        $ exit 2
        '''
    """,
    "lines without a prompt are not run": """
        '''sh
        exit 1
        '''
        '''json
        {
        '''
    """,
    "blocks that are left out": """
        <!-- skip: needs a second machine -->
        '''sh
        $ exit 1
        '''
        <!-- needs: no-such-program -->
        '''sh
        $ exit 1
        '''
        <!-- test-command -->
        '''sh
        $ exit 1
        '''
    """,
    "a background command is ended before a block": r"""
        <!-- background -->
        '''console
        $ trap 'echo ended > file; exit' TERM; echo up; while true; do sleep 0.1; done
        up
        '''
        <!-- stop: trap -->
        '''console
        $ cat file
        ended
        '''
    """,
    "a background command that listens without a word": r"""
        <!-- background: 8889 -->
        '''console
        $ python -c 'from socketserver import *
        > TCPServer(("127.0.0.1", 8889), BaseRequestHandler).serve_forever()'
        '''
        '''console
        $ cat < /dev/null > /dev/tcp/127.0.0.1/8889 || exit 1
        '''
    """,
    "places": """
        '''console
        $ test /srv/shop = "$PWD" && test -x /srv/shop/.venv/bin/python
        '''
    """,
    "a server in a python block serves the console": """
        '''python
        from gevent.server import StreamServer
        server = StreamServer(("127.0.0.1", 0), lambda client, _: client.sendall(b"hello"))
        server.start()
        open("port", "w").write(str(server.server_port))
        '''
        '''console
        $ cat < /dev/tcp/127.0.0.1/$(cat port)
        hello
        '''
    """,
}

#: The first line of a block is the document's third.
PYTHON, SHELL = "\n'''python\n{}\n'''\n", "\n'''sh\n$ {}\n'''\n"

FAILS = {
    "python that raises": (
        PYTHON.format("x = 1\nx / 0"),
        r'(?s)page.md:3: .*page.md", line 4.*ZeroDivisionError',
    ),
    "python that exits": (PYTHON.format("raise SystemExit(0)"), "SystemExit"),
    "python that dies": (PYTHON.format("import os; os._exit(3)"), "its interpreter ended: 3"),
    "python that dies well": (PYTHON.format("import os; os._exit(0)"), "its interpreter ended: 0"),
    "a wrong value": (PYTHON.format("1 + 1  # -> 3"), "page.md:3: wanted: 3"),
    "a wrong output of python": (PYTHON.format("print(2)  # -> 3"), "page.md:3: wanted: 3"),
    "no value": (PYTHON.format("None  # -> 3"), "page.md:3: wanted: 3"),
    "wrong output": (
        SHELL.format("echo one\ntwo"),
        r"(?s)page.md:3: \$ echo one\nwanted:\ntwo\ngot:\none",
    ),
    "a wrong status": (SHELL.format("exit 2"), "exit status 2, not 0"),
    "success that is not expected": (
        "<!-- exit: 2 -->" + SHELL.format("true"),
        "exit status 0, not 2",
    ),
    "an unknown mark": ("<!-- backgroud -->" + SHELL.format("true"), "backgroud"),
    "skip without a reason": ("<!-- skip -->" + SHELL.format("true"), "skip"),
    "a stop of nothing": ("<!-- stop: gtcp -->" + SHELL.format("true"), "no background command"),
    "exit without a status": ("<!-- exit -->" + SHELL.format("true"), "exit"),
    "a block never closed": ("'''python\nx = 1\n", r"line 1: .* never closed"),
    "a background command that ends": ("<!-- background -->" + SHELL.format("true"), "a line"),
}


@pytest.mark.parametrize("text", HOLDS.values(), ids=HOLDS.keys())
def test_document_holds(run, text):
    run(text)


@pytest.mark.parametrize(("text", "match"), FAILS.values(), ids=FAILS.keys())
def test_document_fails(run, text, match):
    with pytest.raises(DocFailure, match=match):
        run(text)


def test_a_program_that_is_required_must_be_installed(run, monkeypatch):
    monkeypatch.setenv("TEST_PROGRAMS", "required")
    with pytest.raises(DocFailure, match=r"page.md:\d: no-such-program is not installed"):
        run("<!-- needs: no-such-program -->" + SHELL.format("true"))


@pytest.mark.parametrize(
    "text", [PYTHON.format("while True: pass"), SHELL.format("sleep 100 | cat")]
)
def test_document_that_does_not_end_fails(run, text):
    with pytest.raises(DocFailure, match=r"(?s)page.md:3: .*still running"):
        run(text, timeout=1.0)


SERVER = """
'''python
# app.py
import signal, sys
def stop(*args):
    open("stopped", "w").close()
    sys.exit(STATUS)
if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    print("starting")
    print("ready")
    signal.pause()
'''

<!-- background -->
'''console
$ python app.py
SHOWN'''

'''console
$ echo while it runs
while it runs
'''
"""


def test_background_command_is_stopped_at_the_end(run, tmp_path):
    run(SERVER.replace("STATUS", "0").replace("SHOWN", "...\nready\n"))
    assert (tmp_path / "run" / "stopped").exists()


@pytest.mark.parametrize(
    ("status", "shown", "match"),
    [
        ("3", "...ready\n", "ended with 3 after SIGTERM"),
        ("0", "listening\n", r"(?s)wanted:\nlistening\ngot:\nstarting"),
        ("0", "", r"(?s)--- python app.py\nstarting"),
    ],
    ids=["ends badly", "prints something else", "is shown with the failure of another"],
)
def test_background_command_fails(run, status, shown, match):
    text = SERVER.replace("STATUS", status).replace("SHOWN", shown)
    if not shown:
        text = text.replace("it runs\n'", "no\n'")
    with pytest.raises(DocFailure, match=match):
        run(text, timeout=2.0 if shown == "listening\n" else 60.0)
