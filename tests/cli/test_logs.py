"""Where the log lines of gtcp serve go: those of the application and gtcp's own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.processes import COMMAND, environment, fails, run, served
from tests.helpers import PATIENCE, eventually

#: An application that logs with the standard library; ``setup`` is run when it is imported.
APP = """\
import logging
import gtcp
{setup}
log = logging.getLogger(__name__)
server = gtcp.Server()

@server.on_start
def start():
    log.info("starting")

@server.handler(1)
def hello(request):
    log.debug("some detail")
    log.info("hello %s", request.params.get("name"))
    log.warning("something odd")
    logging.getLogger("library").info("a library's line")
    return None
"""

DATE = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"

WORKERS = pytest.mark.parametrize("workers", [[], ["--workers", "2"]], ids=["one", "two"])


def application(folder: Path, setup: str = "") -> Path:
    (folder / "app.py").write_text(APP.format(setup=setup))
    return folder


def logged(text: str, level: str, message: str) -> int:
    """The number of lines with a time, this level and this message."""
    return len(re.findall(rf"^\[?{DATE}.*\b{level}\b.*\b{message}$", text, re.M))


def all_said(folder: Path, *flags: str) -> str:
    with served(folder, "app", "--bind", "127.0.0.1:0", *flags) as running:
        running.ask(1, name="Ada")
        return running.end()


@WORKERS
@pytest.mark.parametrize(
    ("level", "messages"),
    [
        ([], {"hello Ada", "something odd", "a library's line", "starting"}),
        (["--log-level", "debug"],
         {"some detail", "hello Ada", "something odd", "a library's line", "starting"}),
        (["--log-level", "warning"], {"something odd"}),
        (["--log-level", "error"], set()),
    ],
)  # fmt: skip
def test_an_applications_lines_are_shown_with_time_and_level(
    level: list[str], messages: set[str], workers: list[str], tmp_path: Path
) -> None:
    said = all_said(application(tmp_path), *level, *workers)
    shown = {
        message
        for severity, message in (
            ("DEBUG", "some detail"),
            ("INFO", "hello Ada"),
            ("WARNING", "something odd"),
            ("INFO", "a library's line"),
            ("INFO", "starting"),
        )
        if logged(said, severity, message)
    }
    assert shown == messages
    assert said.count("something odd") == int("something odd" in messages)


@WORKERS
def test_an_application_that_configures_logging_is_left_alone(
    workers: list[str], tmp_path: Path
) -> None:
    setup = "logging.basicConfig(level='WARNING', format='mine %(levelname)s %(message)s')"
    flags = ["--log-level", "debug", "--access-log", *workers]
    said = all_said(application(tmp_path, setup), *flags)
    assert re.findall(r"^.*something odd$", said, re.M) == ["mine WARNING something odd"]
    assert "hello Ada" not in said
    assert said.count("gtcp.access: ") == 1  # gtcp's own lines are not the application's matter
    assert not re.search(r"^mine .*gtcp", said, re.M)


@WORKERS
def test_a_configuration_that_disables_other_loggers_does_not_silence_gtcp(
    workers: list[str], tmp_path: Path
) -> None:
    """``disable_existing_loggers`` is dictConfig's default."""
    setup = (
        "import logging.config\n"
        "logging.config.dictConfig({'version': 1, 'handlers': {'h': {'class': "
        "'logging.StreamHandler'}}, 'root': {'handlers': ['h'], 'level': 'INFO'}})"
    )
    said = all_said(application(tmp_path, setup), "--access-log", *workers)
    assert re.findall(r"^hello Ada$", said, re.M) == ["hello Ada"]
    assert said.count("gtcp: listening on ") == 1
    assert said.count("gtcp.access: ") == 1


def test_a_level_that_the_application_sets_remains(tmp_path: Path) -> None:
    said = all_said(application(tmp_path, "logging.getLogger(__name__).setLevel('ERROR')"))
    assert "something odd" not in said
    assert logged(said, "INFO", "a library's line") == 1


@WORKERS
def test_what_a_peer_sent_can_not_forge_a_line(workers: list[str], tmp_path: Path) -> None:
    with served(application(tmp_path), "app", "--bind", "127.0.0.1:0", *workers) as running:
        running.ask(1, name="Ada\n2026-01-01 INFO forged\x1b[2J")
        said = running.end()
    assert r"hello Ada\n2026-01-01 INFO forged\x1b[2J" in said


# --log-file


@WORKERS
def test_log_file_gets_the_lines_in_place_of_stderr(workers: list[str], tmp_path: Path) -> None:
    file = tmp_path / "log" / "shop.log"
    file.parent.mkdir()
    file.write_text("before\n")
    flags = ["--log-file", "log/shop.log", "--access-log", *workers]
    said = all_said(application(tmp_path), *flags)
    text = file.read_text()
    assert text.startswith("before\n")
    assert logged(text, "INFO", "hello Ada") == logged(text, "WARNING", "something odd") == 1
    assert text.count("gtcp.access: ") == 1
    assert "hello Ada" not in said
    assert "gtcp.access" not in said
    assert said.count("gtcp: listening on ") == 1  # on stderr in any case


def test_log_file_is_opened_again_when_it_was_moved(tmp_path: Path) -> None:
    file = tmp_path / "shop.log"
    flags = ["--bind", "127.0.0.1:0", "--log-file", "shop.log"]
    with served(application(tmp_path), "app", *flags) as running:
        running.ask(1, name="Ada")
        file.rename(tmp_path / "shop.log.1")
        running.ask(1, name="Grace")
        running.end()
    assert "hello Grace" not in (tmp_path / "shop.log.1").read_text()
    assert logged(file.read_text(), "INFO", "hello Grace") == 1


@pytest.mark.cover_programs
def test_with_workers_sigusr1_opens_the_log_file_again(tmp_path: Path) -> None:
    file = tmp_path / "shop.log"
    flags = ["--bind", "127.0.0.1:0", "--log-file", "shop.log", "--workers", "2"]
    with served(application(tmp_path), "app", *flags) as running:
        running.ask(1, name="Ada")
        file.rename(tmp_path / "shop.log.1")
        running.process.send_signal(signal.SIGUSR1)
        eventually(file.exists)
        eventually(lambda: running.ask(1, name="Grace") or "hello Grace" in file.read_text())
        running.end()
    assert "hello Ada" in (tmp_path / "shop.log.1").read_text()


@pytest.mark.parametrize("name", ["-", "GTCP_LOG_FILE"])
@pytest.mark.cover_programs
def test_log_file_is_a_setting_and_a_dash_means_stderr(name: str, tmp_path: Path) -> None:
    application(tmp_path)
    if name == "-":
        assert logged(all_said(tmp_path, "--log-file", "-"), "INFO", "hello Ada") == 1
        assert not (tmp_path / "-").exists()
        return
    env = {name: str(tmp_path / "shop.log")}
    with served(tmp_path, "app", "--bind", "127.0.0.1:0", env=env) as running:
        running.ask(1)
        running.end()
    assert logged((tmp_path / "shop.log").read_text(), "WARNING", "something odd") == 1


@WORKERS
def test_a_log_file_that_can_not_be_written_is_one_line(workers: list[str], tmp_path: Path) -> None:
    application(tmp_path)
    for path, why in (("no/shop.log", "No such file or directory"), (".", "Is a directory")):
        line = fails(2, "serve", "app", "--log-file", path, *workers, cwd=tmp_path)
        assert line == f"error: log_file: cannot write {path}: {why}"


# --log-config

TOML = """\
[formatters.own]
format = "own %(levelname)s %(name)s %(message)s"

[handlers.file]
class = "logging.FileHandler"
filename = "own.log"
formatter = "own"

[root]
level = "INFO"
handlers = ["file"]
"""
JSON = {
    "version": 1,
    "formatters": {"own": {"format": "own %(levelname)s %(name)s %(message)s"}},
    "handlers": {
        "file": {"class": "logging.FileHandler", "filename": "own.log", "formatter": "own"}
    },
    "root": {"level": "INFO", "handlers": ["file"]},
}


@WORKERS
@pytest.mark.parametrize("form", ["toml", "json"])
def test_log_config_configures_everything(form: str, workers: list[str], tmp_path: Path) -> None:
    """gtcp's lines and the application's, and those of importing it."""
    application(tmp_path, "logging.getLogger('early').info('imported')")
    (tmp_path / f"logs.{form}").write_text(TOML if form == "toml" else json.dumps(JSON))
    said = all_said(tmp_path, "--log-config", f"logs.{form}", "--access-log", *workers)
    lines = (tmp_path / "own.log").read_text().splitlines()
    assert all(line.startswith("own ") for line in lines)
    assert lines.count("own INFO app hello Ada") == 1
    assert "own INFO early imported" in lines
    assert sum(line.startswith("own INFO gtcp.access ") for line in lines) == 1
    assert said.splitlines()[0].startswith("gtcp: listening on ")
    assert "hello Ada" not in said
    if workers:
        assert any(" gunicorn.error " in line for line in lines)


@pytest.mark.cover_programs
def test_with_workers_sigusr1_opens_the_files_of_the_log_config_again(tmp_path: Path) -> None:
    application(tmp_path)
    (tmp_path / "logs.toml").write_text(TOML)
    flags = ["--bind", "127.0.0.1:0", "--log-config", "logs.toml", "--workers", "2"]
    file = tmp_path / "own.log"
    with served(tmp_path, "app", *flags) as running:
        running.ask(1, name="Ada")
        file.rename(tmp_path / "own.log.1")
        running.process.send_signal(signal.SIGUSR1)
        eventually(lambda: running.ask(1, name="Grace") or _holds(file, "hello Grace"))
        running.end()
    assert "hello Ada" in (tmp_path / "own.log.1").read_text()


def _holds(file: Path, text: str) -> bool:
    return file.exists() and text in file.read_text()


@WORKERS
@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot read logs.toml: No such file or directory"),
        ("[", "cannot read logs.toml: "),
        ("[root]\nhandlers = ['none']", "logs.toml: Unable to configure root logger"),
        ("[root]\nlevel = 'loud'", "Unknown level: 'loud'"),
        ("[handlers.h]\nclass = 'no.such.Class'", "logs.toml: Unable to configure handler 'h'"),
        ("version = 2", "logs.toml: Unsupported version: 2"),
    ],
)
@pytest.mark.cover_programs
def test_a_mistake_in_the_log_config_is_one_line(
    text: str | None, says: str, workers: list[str], tmp_path: Path
) -> None:
    application(tmp_path)
    if text is not None:
        (tmp_path / "logs.toml").write_text(text)
    line = fails(2, "serve", "app", "--log-config", "logs.toml", *workers, cwd=tmp_path)
    assert line.startswith("error: log_config: ")
    assert says in line


@WORKERS
@pytest.mark.cover_programs
def test_log_config_and_log_file_exclude_each_other(workers: list[str], tmp_path: Path) -> None:
    application(tmp_path)
    (tmp_path / "logs.toml").write_text(TOML)
    flags = ["--log-config", "logs.toml", "--log-file", "shop.log", *workers]
    line = fails(2, "serve", "app", *flags, cwd=tmp_path)
    assert line == "error: log_config: expected no log_file with it"


# gunicorn itself


def test_under_gunicorn_an_applications_lines_go_where_gunicorns_do(tmp_path: Path) -> None:
    application(tmp_path)
    command = [COMMAND[0], "-m", "gunicorn", "-k", "gtcp.server.worker.GtcpWorker", "app:server"]
    flags = ["-b", "unix:s", "--error-logfile", "errors.log", "--log-level", "info"]
    process = subprocess.Popen([*command, *flags], cwd=tmp_path, env=environment())
    try:
        eventually(lambda: run("call", f"unix:{tmp_path}/s", "1", '{"name": "Ada"}').stdout)
        text = eventually(lambda: _text_with(tmp_path / "errors.log", "something odd"))
        assert logged(text, "INFO", "app: hello Ada") == 1
        os.rename(tmp_path / "errors.log", tmp_path / "errors.log.1")
        process.send_signal(signal.SIGUSR1)
        eventually(
            lambda: (
                run("call", f"unix:{tmp_path}/s", "1", '{"name": "Grace"}').stdout
                and _text_with(tmp_path / "errors.log", "hello Grace")
            )
        )
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _text_with(file: Path, part: str) -> str:
    text = file.read_text() if file.exists() else ""
    return text if part in text else ""
