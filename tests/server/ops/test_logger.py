from __future__ import annotations

import json
import logging
import sys
import threading
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from gtcp.server.ops.log_setup import configure
from gtcp.server.ops.logger import (
    ACCESS,
    MAX_MESSAGE_CHARS,
    MAX_TRACEBACK_CHARS,
    SERVER,
    BaseLogger,
    EscapingFormatter,
    escape,
    escape_json,
)


@pytest.fixture(autouse=True)
def _loggers_as_before():
    """Forget the loggers a test made: logging keeps them by name for the whole process."""
    known = logging.Logger.manager.loggerDict
    before = dict(known)
    gtcp = logging.getLogger("gtcp")
    state = (list(gtcp.handlers), gtcp.level, gtcp.propagate)
    yield
    gtcp.handlers[:], gtcp.propagate = state[0], state[2]
    gtcp.setLevel(state[1])
    for name in set(known) - set(before):
        for handler in getattr(known.pop(name), "handlers", []):
            handler.close()


def logger_class(name: str, **attributes: object) -> type[BaseLogger]:
    return type(name, (BaseLogger,), {"logger_format_console": None, **attributes})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where `pay` logs to."""
    return tmp_path / "pay.log"


@pytest.fixture
def pay(path: Path) -> Callable[..., BaseLogger]:
    """Make a logger that writes messages to ``path``."""

    def make(**attributes: object) -> BaseLogger:
        return logger_class(
            "Pay", **{"logger_path": path, "logger_format_file": "%(message)s", **attributes}
        )()

    return make


def record_of(message: str, *args: object, exc_info: object = None) -> logging.LogRecord:
    return logging.LogRecord("pay", logging.INFO, __file__, 1, message, args, exc_info)  # type: ignore[arg-type]


def raised(error: BaseException) -> tuple[type[BaseException], BaseException, object]:
    try:
        raise error
    except BaseException:
        return sys.exc_info()  # type: ignore[return-value]


# BaseLogger.


def test_two_loggers_with_different_files_do_not_mix(tmp_path):
    pay = logger_class("Pay", logger_name="pay", logger_path=tmp_path / "pay.log")()
    buy = logger_class("Buy", logger_name="pay.buy", logger_path=tmp_path / "buy.log")()
    pay.info("paid")
    buy.info("bought")
    assert (tmp_path / "pay.log").read_text().splitlines()[0].endswith("paid")
    assert "bought" not in (tmp_path / "pay.log").read_text()
    assert "paid" not in (tmp_path / "buy.log").read_text()


def test_a_class_instantiated_by_many_threads_logs_once(path):
    pay = logger_class("Pay", logger_path=path)
    barrier = threading.Barrier(8)

    def instantiate():
        barrier.wait()
        pay().info("one")

    threads = [threading.Thread(target=instantiate) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(path.read_text().splitlines()) == 8
    assert len(pay().logger.handlers) == 1


@pytest.mark.parametrize(
    "other", [{"logger_path": "b.log"}, {"logger_path": None}, {"logger_level": "error"}]
)
def test_a_name_taken_by_another_logger_is_refused(tmp_path, monkeypatch, other):
    monkeypatch.chdir(tmp_path)
    logger_class("First", logger_name="pay", logger_path="a.log")()
    second = logger_class("Second", **{"logger_name": "pay", "logger_path": "a.log", **other})
    with pytest.raises(ValueError, match=r"^logger_name 'pay' of .*Second is taken"):
        second()


def test_classes_that_agree_on_everything_share_a_logger(tmp_path):
    attributes = {"logger_name": "pay", "logger_path": tmp_path / "pay.log"}
    first, second = (logger_class(name, **attributes)() for name in ("First", "Second"))
    assert first.logger is second.logger
    assert len(first.logger.handlers) == 1


def test_without_a_name_each_class_has_a_logger_of_its_own():
    first, second = logger_class("First")(), logger_class("Second")()
    assert first.logger is not second.logger
    assert first.logger.name == f"{__name__}.First"


def test_only_without_own_handlers_records_go_to_the_root_logger(tmp_path, caplog):
    assert not logger_class("File", logger_path=tmp_path / "x.log")().logger.propagate
    assert not logger_class("Console", logger_format_console="%(message)s")().logger.propagate
    logger_class("Plain", logger_name="plain")().info("hello")
    assert caplog.record_tuples == [("plain", logging.INFO, "hello")]


def test_file_and_console_each_have_their_format(pay, path, capsys):
    logger = pay(
        logger_name="pay",
        logger_format_file="file %(message)s",
        logger_format_console="%(name)s|%(message)s",
    )
    logger.info("%s paid %d", "Ann", 3)
    assert path.read_text() == "file Ann paid 3\n"
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "pay|Ann paid 3\n")


def test_the_base_class_logs_to_the_console_and_no_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    BaseLogger().info("hello")
    assert "INFO     hello" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("level", [logging.WARNING, "warning", "WARNING"])
def test_what_is_below_the_level_is_not_logged(pay, path, level):
    logger = pay(logger_level=level, logger_format_file="%(levelname)s %(message)s")
    for method in ("debug", "info", "warning", "warn", "error", "critical"):
        getattr(logger, method)(method)
    expected = ["WARNING warning", "WARNING warn", "ERROR error", "CRITICAL critical"]
    assert path.read_text().splitlines() == expected


def test_an_unknown_level_is_refused():
    for refuse in (logger_class("Pay", logger_level="loud"), lambda: configure("loud")):
        with pytest.raises(ValueError, match="expected a log level such as 'info', got 'loud'"):
            refuse()


def test_a_record_names_the_line_that_logged_it(tmp_path):
    logger_class(
        "Pay", logger_path=tmp_path / "pay.log", logger_format_file="%(filename)s %(funcName)s"
    )().info("x")
    here = "test_logger.py test_a_record_names_the_line_that_logged_it\n"
    assert (tmp_path / "pay.log").read_text() == here


def test_exception_logs_the_traceback_and_takes_the_exception_as_its_message(tmp_path):
    logger = logger_class("Pay", logger_path=tmp_path / "pay.log")()
    try:
        raise KeyError("who")
    except KeyError as exc:
        logger.exception(exc)
    text = (tmp_path / "pay.log").read_text()
    assert "ERROR    'who'\n  Traceback (most recent call last):\n" in text
    assert text.endswith("\n  KeyError: 'who'\n")


def test_a_file_is_made_when_something_is_logged_and_again_after_logrotate(pay, path, tmp_path):
    logger = pay()
    assert list(tmp_path.iterdir()) == []
    logger.info("old")
    path.rename(tmp_path / "pay.log.1")
    logger.info("new")
    assert (tmp_path / "pay.log.1").read_text() == "old\n"
    assert path.read_text() == "new\n"


def test_a_relative_path_stays_where_it_was_when_the_directory_changes(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    logger = logger_class("Pay", logger_path="pay.log")()
    monkeypatch.chdir(tmp_path / "elsewhere")
    logger.info("paid")
    assert (tmp_path / "pay.log").exists()


def test_a_missing_directory_is_refused_until_it_is_there(tmp_path):
    pay = logger_class("Pay", logger_path=tmp_path / "logs" / "pay.log")
    with pytest.raises(FileNotFoundError, match=r"Pay is in a directory .*pay.log") as caught:
        pay()
    assert "\n" not in str(caught.value)
    (tmp_path / "logs").mkdir()
    pay().info("paid")
    assert (tmp_path / "logs" / "pay.log").read_text().endswith("paid\n")


# What peers sent.


def test_a_message_cannot_forge_a_line_or_drive_a_terminal(pay, path):
    pay().info("from %s", "a\nINFO forged\r\x1b[2J\x00\x85\u2028\u202e\ud800")
    line = r"from a\nINFO forged\r\x1b[2J\x00\x85\u2028\u202e\ud800"
    assert path.read_bytes() == line.encode() + b"\n"


def test_letters_of_any_language_stay_as_they_are():
    assert escape("größe 大小 😀 C:\\new") == "größe 大小 😀 C:\\new"


def test_every_character_that_is_not_shown_as_itself_is_escaped():
    """By Unicode's categories: controls, format characters, separators of lines, surrogates."""
    for number in range(sys.maxunicode + 1):
        character = chr(number)
        if unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp", "Cs"):
            assert escape(character) == character.encode("unicode_escape").decode(), hex(number)
            written = json.dumps([character], ensure_ascii=False)
            assert json.loads(escape_json(written)) == [character]


@pytest.mark.parametrize(
    "character",
    [
        "\u061c",
        "\u200b",
        "\u2067",
        "\ufeff",
        "\ufe0f",
        "\U000e0041",
        "\U000e0100",
        "\u3164",
        "\xad",
    ],
)
def test_invisible_and_reordering_characters_are_escaped(character):
    assert escape(f"a{character}b") == f"a{character.encode('unicode_escape').decode()}b"


def test_letters_and_symbols_are_not_escaped():
    text = "größe 大小 😀 שלום مرحبا हिन्दी ไทย é e\u0301 \xa0 → 한국어"
    assert escape(text) == text
    assert escape_json(json.dumps({"a": [text]}, ensure_ascii=False, indent=2)) == json.dumps(
        {"a": [text]}, ensure_ascii=False, indent=2
    )


def test_json_stays_the_same_json():
    value = {"a\u202e": ["\x9b2J", "\U000e0041", "\n", "\u061c"]}
    text = escape_json(json.dumps(value, ensure_ascii=False, indent=2))
    assert json.loads(text) == value
    assert text.isascii()


@pytest.mark.parametrize("character", ["x", "\n", "\u2028"])
def test_a_long_message_is_cut_and_says_so(character):
    text = escape(character * 1_000_000)
    assert text.endswith("... (1000000 characters)")
    assert len(text) < MAX_MESSAGE_CHARS + 40


def test_a_traceback_keeps_its_lines_but_none_passes_for_a_log_line():
    error = ValueError("bad\nINFO forged \x1b[2J")
    text = EscapingFormatter("%(message)s").format(record_of("failed", exc_info=raised(error)))
    first, *rest = text.split("\n")
    assert first == "failed"
    assert rest[0] == "  Traceback (most recent call last):"
    assert rest[-2:] == ["  ValueError: bad", r"  INFO forged \x1b[2J"]
    assert all(line.startswith("  ") for line in rest)


def test_a_traceback_is_escaped_though_another_handler_formatted_it_before():
    record = record_of("failed", exc_info=raised(ValueError("\x1b[2J")))
    logging.Formatter().format(record)
    assert "\x1b" in record.exc_text
    assert "\x1b" not in EscapingFormatter().format(record)
    text = record_of("failed")
    text.exc_text, text.stack_info = "Traceback\n\x1b", "Stack\n\x1b"
    formatted = EscapingFormatter().format(text)
    assert formatted == "failed\n  Traceback\n  \\x1b\n  Stack\n  \\x1b"


def test_a_long_traceback_is_cut_and_says_so():
    record = record_of("failed", exc_info=raised(ValueError("x\n" * MAX_TRACEBACK_CHARS)))
    text = EscapingFormatter().format(record)
    assert text.endswith(" characters)")
    assert len(text) < 4 * MAX_TRACEBACK_CHARS


def test_the_record_stays_as_it_was_for_other_handlers():
    record = record_of("%s", "a\nb", exc_info=raised(ValueError("x")))
    EscapingFormatter().format(record)
    assert (record.msg, record.args, record.exc_text) == ("%s", ("a\nb",), None)


def test_a_message_that_cannot_be_formatted_does_not_break_the_program(capsys):
    logger_class("Pay", logger_format_console="%(message)s")().info("%d", "x")
    assert "Logging error" in capsys.readouterr().err


# The gtcp command's logging.


def test_configure_sends_the_gtcp_loggers_to_stderr_once_at_the_last_level(capsys):
    for level in ("error", "DEBUG", "info"):
        configure(level)
    logging.getLogger(SERVER).info("started\n")
    logging.getLogger(ACCESS).info("10000")
    logging.getLogger(SERVER).debug("not this")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" INFO ")[1].strip() for line in lines] == [
        r"gtcp.server: started\n",
        "gtcp.access: 10000",
    ]
