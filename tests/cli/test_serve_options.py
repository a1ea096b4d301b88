"""gtcp serve: the configuration on show, PID files, where the server is found, its help."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gtcp.cli.command import cli
from gtcp.server.settings import Settings
from tests.cli.processes import COMMAND, environment, fails, free_address, run, served
from tests.helpers import PATIENCE, eventually

WORKERS = pytest.mark.parametrize("workers", [[], ["--workers", "2"]], ids=["one", "two"])
ANY = ("--bind", "127.0.0.1:0")

# --check-config and --print-config


@pytest.mark.cover_programs
def test_check_config_says_that_it_is_valid_and_serves_nothing(app: Path) -> None:
    ended = run("serve", "app", "--check-config", cwd=app)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "app:server: the configuration is valid\n"


@pytest.mark.parametrize(
    ("flags", "env", "status", "says"),
    [
        (["--workers", "0"], {}, 2, "--workers: expected an integer from 1 to 1024, got '0'"),
        ([], {"GTCP_PRT": "1"}, 2, "unknown setting 'GTCP_PRT'"),
        (["--tls-key", "key.pem"], {}, 2, "tls_key: expected tls_cert with it"),
        (["--tls-cert", "no.pem"], {}, 2, "no.pem"),
        (["--secret-file", "no.secret"], {}, 2, "no.secret"),
        (["--log-file", "no/log"], {}, 2, "log_file: cannot write no/log"),
        (["--log-config", "no.toml"], {}, 2, "log_config: cannot read no.toml"),
        (["--bind", "0.0.0.0:1"], {}, 2, "other hosts can reach 0.0.0.0:1"),
        (["--bind", "[::]:1", "--workers", "2"], {}, 2, "other hosts can reach [::]:1"),
        (["--bind", "a..b:1"], {}, 1, "can't listen on a..b:1: "),
    ],
)
@pytest.mark.cover_programs
def test_check_config_finds_what_would_keep_a_server_from_starting(
    flags: list[str], env: dict[str, str], status: int, says: str, app: Path
) -> None:
    assert says in fails(status, "serve", "app", "--check-config", *flags, cwd=app, env=env)


def test_check_config_does_not_mind_an_address_in_use(app: Path, address: str) -> None:
    assert run("serve", "app", "--check-config", "--bind", address, cwd=app).returncode == 0


def test_check_config_does_not_run_on_start(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import gtcp\nserver = gtcp.Server()\n@server.on_start\ndef start(): open('ran', 'w')\n"
    )
    assert run("serve", "app", "--check-config", cwd=tmp_path).returncode == 0
    assert not (tmp_path / "ran").exists()


@pytest.mark.cover_programs
def test_printed_configuration_is_a_file_that_gives_the_same_settings(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import gtcp\nserver = gtcp.Server(gtcp.Settings(idle_timeout=7, unix_mode='660'))\n"
    )
    flags = ["--bind", "127.0.0.1:8810", "--bind", "unix:\N{LATIN SMALL LETTER U WITH DIAERESIS}"]
    env = {"GTCP_KEEPALIVE": "none", "GTCP_ALLOW_NETWORKS": "10.0.0.0/8,fd00::/8"}
    ended = run("serve", "app", "--print-config", *flags, cwd=tmp_path, env=env)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (
        'bind = ["127.0.0.1:8810", "unix:\N{LATIN SMALL LETTER U WITH DIAERESIS}"]\n'
        in ended.stdout
    )
    assert 'keepalive = "none"\n' in ended.stdout
    assert "idle_timeout = 7.0\n" in ended.stdout
    (tmp_path / "printed.toml").write_text(ended.stdout)
    again = run("serve", "app", "--print-config", "--config", "printed.toml", cwd=tmp_path)
    assert again.stdout == ended.stdout
    settings = Settings.load(tmp_path / "printed.toml", env={})
    assert (settings.idle_timeout, settings.unix_mode) == (7.0, "660")


def test_every_default_can_be_printed_and_read_again(tmp_path: Path) -> None:
    (tmp_path / "all.toml").write_text(Settings().to_toml())
    assert Settings.load(tmp_path / "all.toml", env={}) == Settings()


# --pid


@WORKERS
@pytest.mark.cover_programs
def test_pid_file_is_there_while_it_listens(workers: list[str], app: Path) -> None:
    with served(app, "app", *ANY, "--pid", "shop.pid", *workers) as running:
        eventually((app / "shop.pid").exists)
        assert (app / "shop.pid").read_text() == f"{running.process.pid}\n"
        assert (app / "shop.pid").stat().st_mode & 0o777 == 0o644
        running.end()
    assert not (app / "shop.pid").exists()


@WORKERS
@pytest.mark.cover_programs
def test_a_second_one_is_refused_while_the_first_runs(workers: list[str], app: Path) -> None:
    with served(app, "app", *ANY, "--pid", "shop.pid", *workers) as running:
        eventually((app / "shop.pid").exists)
        line = fails(1, "serve", "app", *ANY, "--pid", "shop.pid", *workers, cwd=app)
        assert line == f"error: shop.pid: process {running.process.pid} is running"
        assert (app / "shop.pid").read_text() == f"{running.process.pid}\n"
        running.end()


@WORKERS
@pytest.mark.parametrize("whose", ["killed", "running", "nobody's", "empty"])
def test_a_stale_file_is_replaced(whose: str, workers: list[str], app: Path) -> None:
    """Also one whose number belongs to another process by now."""
    if whose == "killed":
        with served(app, "app", *ANY, "--pid", "shop.pid") as running:
            eventually((app / "shop.pid").exists)
            running.process.kill()
            running.process.wait(PATIENCE)
    else:
        numbers = {"running": os.getpid(), "nobody's": 2**22 + 1, "empty": ""}
        (app / "shop.pid").write_text(f"{numbers[whose]}\n")
    with served(app, "app", *ANY, "--pid", "shop.pid", *workers) as running:
        written = f"{running.process.pid}\n"
        eventually(lambda: (app / "shop.pid").read_text() == written)
        running.end()
    assert not (app / "shop.pid").exists()


@WORKERS
@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("no/shop.pid", "cannot write no/shop.pid: No such file or directory"),
        ("app.py", "app.py: it is not a PID file, and would be overwritten"),
    ],
)
@pytest.mark.cover_programs
def test_a_pid_file_that_can_not_be_is_one_line(
    path: str, says: str, workers: list[str], app: Path
) -> None:
    before = (app / "app.py").read_text()
    assert fails(1, "serve", "app", "--pid", path, *workers, cwd=app) == f"error: {says}"
    assert (app / "app.py").read_text() == before


@pytest.mark.cover_programs
def test_a_server_that_can_not_listen_leaves_no_pid_file(app: Path, address: str) -> None:
    fails(1, "serve", "app", "--bind", address, "--pid", "shop.pid", cwd=app)
    assert not (app / "shop.pid").exists()


@pytest.mark.cover_programs
def test_pid_file_is_handed_over_at_sigusr2(app: Path) -> None:
    address = free_address()
    flags = ["--bind", address, "--workers", "1", "--reload", "--pid", "shop.pid"]
    with open(app / "stderr", "w") as stderr:
        old = subprocess.Popen(
            [*COMMAND, "serve", "app", *flags],
            cwd=app,
            env=environment(),
            stderr=stderr,
            start_new_session=True,
        )
    try:
        eventually(lambda: "listening on" in (app / "stderr").read_text())
        old.send_signal(signal.SIGUSR2)
        eventually((app / "shop.pid.2").exists)
        new = (app / "shop.pid.2").read_text()
        old.terminate()
        assert old.wait(PATIENCE) == 0
        eventually(lambda: (app / "shop.pid").exists() and (app / "shop.pid").read_text() == new)
        line = fails(1, "serve", "app", *ANY, "--pid", "shop.pid", cwd=app)
        assert line == f"error: shop.pid: process {new.strip()} is running"
    finally:
        os.killpg(old.pid, signal.SIGKILL)
        old.wait()


# --app-dir, --factory, WEB_CONCURRENCY


@WORKERS
def test_app_dir_is_where_the_target_is(workers: list[str], app: Path, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "app.py").rename(tmp_path / "src" / "shop.py")
    with served(tmp_path, "shop", *ANY, "--app-dir", "src", *workers) as running:
        assert running.ask(1, a=1) == {"a": 1}
        running.end()
    line = fails(2, "serve", "app", "--app-dir", "src", *workers, cwd=tmp_path)
    assert line.startswith(f"error: can't import 'app' from {tmp_path}/src: ")


@WORKERS
@pytest.mark.parametrize("target", [["app:make_server", "--factory"], ["app:make_server()"]])
def test_a_factory_makes_the_server(target: list[str], workers: list[str], tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import gtcp\n"
        "def make_server():\n"
        "    server = gtcp.Server(gtcp.Settings(idle_timeout=7))\n"
        "    @server.handler(1)\n"
        "    def timeout(request): return server.settings.idle_timeout\n"
        "    return server\n"
    )
    with served(tmp_path, *target, *ANY, *workers) as running:
        assert running.ask(1) == 7.0
        running.end()
    line = fails(2, "serve", "app:make_server", *workers, cwd=tmp_path)
    assert line.endswith("expected a gtcp.Server or gtcp.Commands; --factory calls it")


def workers_of(folder: Path, *flags: str, **env: str) -> str:
    shown = run("serve", "app", "--print-config", *flags, cwd=folder, env=env).stdout
    found = re.search(r"^workers = (\d+)$", shown, re.M)
    assert found is not None
    return found[1]


@pytest.mark.cover_programs
def test_web_concurrency_is_the_weakest_number_of_workers(app: Path, tmp_path: Path) -> None:
    web = {"WEB_CONCURRENCY": "3"}
    assert workers_of(app, **web) == "3"
    assert workers_of(app, GTCP_WORKERS="2", **web) == "2"
    assert workers_of(app, "--workers", "1", **web) == "1"
    assert workers_of(app, WEB_CONCURRENCY="") == "1"
    (tmp_path / "gtcp.toml").write_text("workers = 4\n")
    assert workers_of(app, "--config", "gtcp.toml", **web) == "4"
    (tmp_path / "app.py").write_text(
        "import gtcp\nserver = gtcp.Server(gtcp.Settings(workers=5))\n"
    )
    assert workers_of(tmp_path, **web) == "5"
    for wrong in ("many", "0", "1.5"):
        line = fails(2, "serve", "app", cwd=app, env={"WEB_CONCURRENCY": wrong})
        expected = f"WEB_CONCURRENCY: expected an integer from 1 to 1024, got {wrong!r}"
        assert line == f"error: {expected}"


@pytest.mark.cover_programs
def test_web_concurrency_starts_workers(app: Path) -> None:
    with served(app, "app", *ANY, env={"WEB_CONCURRENCY": "2"}) as running:
        assert running.ask(3) == running.process.pid
        assert any("2 workers" in line for line in running.said)
        running.end()


def test_one_address_in_a_file_is_a_string(app: Path) -> None:
    (app / "gtcp.toml").write_text('[gtcp]\nbind = "127.0.0.1:0"\n')
    with served(app, "app", "--config", "gtcp.toml") as running:
        assert running.ask(1, a=1) == {"a": 1}
        running.end()


# The examples of the help

EXAMPLE = re.compile(r"^ {2,}gtcp (serve|call|ping|bench|demo|commands)\b(.*?)(?: {3,}.*)?$", re.M)


def examples(*names: str) -> list[list[str]]:
    """The commands in the help of these subcommands, as a shell divides them."""
    found = []
    for name in names:
        text = (cli.commands[name].help or "").partition("Examples:")[2]
        assert text, name
        found += [shlex.split(command + rest) for command, rest in EXAMPLE.findall(text)]
    return found


@pytest.fixture
def project(app: Path) -> Path:
    """A directory in which the examples of the help work."""
    (app / "src").mkdir()
    source = (app / "app.py").read_text()
    source = source.replace("@server.handler(1)\ndef echo", "@server.handler(10000)\ndef hello")
    source += "\n\ndef make_server():\n    return server\n"
    (app / "app.py").write_text(source)
    (app / "src" / "app.py").write_text(source)
    (app / "params.json").write_text('{"content": "from a file"}')
    return app


@pytest.mark.parametrize("arguments", examples("serve"), ids=" ".join)
def test_examples_of_serve_work(arguments: list[str], project: Path) -> None:
    arguments = [each.replace("127.0.0.1:8890", free_address()) for each in arguments[1:]]
    env = {"GTCP_PORT": free_address().rpartition(":")[2]}
    if "--check-config" in arguments:
        assert run("serve", *arguments, cwd=project, env=env).returncode == 0
        return
    with served(project, *arguments, env=env) as running:
        running.end()


@pytest.mark.parametrize("arguments", examples("call", "ping", "bench"), ids=" ".join)
def test_examples_of_the_client_commands_work(arguments: list[str], project: Path) -> None:
    flags = ["--bind", "127.0.0.1:0", "--bind", "unix:app.sock"]
    with served(project, "app", *flags) as running, open(project / "params.json") as file:
        typed = [each.replace("127.0.0.1", running.addresses[0]) for each in arguments]
        stdin = file if "<" in typed else None
        typed = typed[: typed.index("<")] if "<" in typed else typed
        if "--duration" in typed:
            typed[typed.index("--duration") + 1] = "0.2"
        elif typed[0] == "bench":
            typed += ["--duration", "0.2"]
        ended = run(*typed, cwd=project, stdin=stdin)
        assert (ended.returncode, ended.stderr) == (0, "")
        if typed[0] == "call":
            assert "content" in ended.stdout


# Shell completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_shell_completion_is_printed(shell: str) -> None:
    ended = run(env={"_GTCP_COMPLETE": f"{shell}_source"})
    assert ended.returncode == 0
    assert "_GTCP_COMPLETE" in ended.stdout


def test_subcommands_and_options_are_completed() -> None:
    for words, number, expected in (("gtcp se", 1, "serve"), ("gtcp serve --pi", 2, "--pid")):
        env = {
            "_GTCP_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(number),
        }
        ended = subprocess.run(
            [sys.executable, "-m", "gtcp"],
            env=environment(**env),
            capture_output=True,
            text=True,
            check=False,
        )
        assert expected in ended.stdout
