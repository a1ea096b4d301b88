"""The tool that tests the documents, tested."""

import textwrap

import pytest

from tests.doc_blocks import DocFailure, run_document


@pytest.fixture
def run(tmp_path):
    def run(text, **options):
        path = tmp_path / "page.md"
        path.write_text(textwrap.dedent(text).replace("'''", "```"))
        run_document(path, tmp_path, **options)

    return run


def test_python_blocks_share_names(run):
    run("""
        '''python
        x = 1
        '''
        '''python
        assert x == 1
        '''
    """)


def test_failing_python_block_fails_with_its_line(run):
    with pytest.raises(DocFailure, match=r'(?s)page.md:3: .*page.md", line 4.*ZeroDivisionError'):
        run("""
            '''python
            x = 1
            x / 0
            '''
        """)


def test_exit_in_a_python_block_fails(run):
    with pytest.raises(DocFailure, match="SystemExit"):
        run("""
            '''python
            raise SystemExit(0)
            '''
        """)


def test_interpreter_that_dies_fails(run):
    with pytest.raises(DocFailure, match="its interpreter ended: 3"):
        run("""
            '''python
            import os
            os._exit(3)
            '''
        """)


def test_endless_python_block_fails(run):
    with pytest.raises(DocFailure, match="still running"):
        run(
            """
            '''python
            while True: pass
            '''
            """,
            timeout=1.0,
        )


def test_arrow_comments_hold(run):
    run("""
        '''python
        {"content": "Hello"}  # -> {'content': 'Hello'}
        object()              # -> <object object at 0x...>
        print("é", 1)         # -> é 1
        None                  # ->
        '''
    """)


@pytest.mark.parametrize("line", ["1 + 1  # -> 3", "print(2)  # -> 3", "None  # -> 3"])
def test_wrong_arrow_comment_fails(run, line):
    with pytest.raises(DocFailure, match=r"page.md:3: wanted: 3"):
        run(f"\n'''python\n{line}\n'''\n")


def test_named_block_is_written_and_can_be_imported_and_run(run):
    run("""
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
    """)


def test_write_mark_does_not_run_the_block(run):
    run("""
        <!-- write -->
        '''python
        # app.py
        1 / 0
        '''
        '''console
        $ tail -n 1 app.py
        1 / 0
        '''
    """)


def test_type_hints_resolve_in_a_block(run):
    run("""
        '''python
        from __future__ import annotations
        import typing
        class Greet: content: Other
        class Other: pass
        assert typing.get_type_hints(Greet) == {"content": Other}
        '''
    """)


def test_console_output_holds_with_wildcard(run):
    run(r"""
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
    """)


def test_wrong_console_output_fails(run):
    with pytest.raises(DocFailure, match=r"(?s)page.md:3: \$ echo one\nwanted:\ntwo\ngot:\none"):
        run("""
            '''console
            $ echo one
            two
            '''
        """)


def test_wrong_exit_status_fails(run):
    with pytest.raises(DocFailure, match="exit status 2, not 0"):
        run("""
            '''sh
            $ exit 2
            '''
        """)


def test_exit_mark_says_the_status(run):
    run("""
        <!-- exit: 2 -->
        '''sh
        $ exit 2
        '''
    """)


def test_exit_mark_refuses_success(run):
    with pytest.raises(DocFailure, match="exit status 0, not 2"):
        run("""
            <!-- exit: 2 -->
            '''sh
            $ true
            '''
        """)


def test_endless_command_fails(run):
    with pytest.raises(DocFailure, match="still running"):
        run("\n'''sh\n$ sleep 100 | cat\n'''\n", timeout=0.5)


def test_lines_without_a_prompt_are_not_run(run):
    run("""
        '''sh
        exit 1
        '''
        '''json
        {
        '''
    """)


def test_left_out_blocks(run):
    run("""
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
    """)


@pytest.mark.parametrize("mark", ["backgroud", "skip", "exit"])
def test_mark_that_makes_no_sense_fails(run, mark):
    with pytest.raises(DocFailure, match=mark):
        run(f"<!-- {mark} -->\n'''sh\n'''\n")


def test_block_never_closed_fails(run):
    with pytest.raises(DocFailure, match=r"line 1: .* never closed"):
        run("'''python\nx = 1\n")


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
SHOWN
'''

'''console
$ echo while it runs
while it runs
'''
"""


def test_background_command_is_stopped_at_the_end(run, tmp_path):
    run(SERVER.replace("STATUS", "0").replace("SHOWN", "...\nready"))
    assert (tmp_path / "run" / "stopped").exists()


def test_background_command_that_ends_badly_fails(run):
    with pytest.raises(DocFailure, match="ended with 3 after SIGTERM"):
        run(SERVER.replace("STATUS", "3").replace("SHOWN", "...ready"))


def test_background_command_that_prints_something_else_fails(run):
    with pytest.raises(DocFailure, match=r"(?s)wanted:\nlistening\ngot:\nstarting"):
        run(SERVER.replace("STATUS", "0").replace("SHOWN", "listening"), timeout=2.0)


def test_background_command_that_does_not_come_up_fails(run):
    with pytest.raises(DocFailure, match=r"(?s)a line"):
        run("""
            <!-- background -->
            '''sh
            $ exit 0
            '''
        """)


def test_failure_shows_what_background_commands_printed(run):
    with pytest.raises(DocFailure, match=r"(?s)--- python app.py\nstarting"):
        run(SERVER.replace("STATUS", "0").replace("SHOWN\n", "").replace("it runs\n'", "no\n'"))


def test_server_in_a_python_block_serves_the_console(run):
    run("""
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
    """)
