"""Each of gunicorn's settings has its effect, or is refused or warned about."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from gunicorn.config import KNOWN_SETTINGS, Config

from gtcp.server.workers import gunicorn_settings
from gtcp.server.workers.gunicorn_settings import LIMITED, REFUSED, WITH_EFFECT, WITHOUT_EFFECT
from tests.server.workers.gunicorn_process import GUNICORN, HERE, Supervised

DOCS = Path(__file__).parents[3] / "docs" / "how-to" / "gunicorn.md"

GROUPS = (frozenset(REFUSED), WITHOUT_EFFECT, frozenset(LIMITED), WITH_EFFECT)


def test_every_setting_is_in_one_group() -> None:
    for each in KNOWN_SETTINGS:
        groups = [group for group in GROUPS if each.name in group]
        assert len(groups) == 1, f"{each.name}: a new setting of gunicorn? {groups}"


def test_defaults_are_neither_refused_nor_warned_about() -> None:
    cfg = Config()
    gunicorn_settings.refuse(cfg)
    assert gunicorn_settings.warnings(cfg) == []


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_refused_says_why(name: str) -> None:
    cfg = Config()
    values = {
        "cert_reqs": 2,
        "preload_app": True,
        "proxy_protocol": True,
        "ssl_context": lambda _config, _factory: None,
    }
    value = values.get(name, "x")
    cfg.set(name, value)
    with pytest.raises(RuntimeError, match=f"^{name} can't be used with GtcpWorker: "):
        gunicorn_settings.refuse(cfg)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("access_log_format", "%(h)s"),
        ("keepalive", 7),
        ("limit_request_line", 99),
        ("pre_request", lambda _worker, _request: None),
        ("post_request", lambda _worker, _request, _environ, _response: None),
        ("threads", 4),
        ("reuse_port", True),
        ("statsd_host", "localhost:8125"),
    ],
)
def test_what_has_no_or_less_effect_is_named_in_a_line(name: str, value: object) -> None:
    cfg = Config()
    cfg.set(name, value)
    (line,) = gunicorn_settings.warnings(cfg)
    assert name in line


def test_the_documentation_names_the_same_settings() -> None:
    text = DOCS.read_text()
    for heading, names in (("Refused", set(REFUSED)), ("Without effect", set(WITHOUT_EFFECT))):
        (row,) = re.findall(rf"^{heading}: (.+?)\n\n", text, re.MULTILINE | re.DOTALL)
        assert set(re.findall(r"`(\w+)`", row)) == names


@pytest.mark.programs
def test_gunicorn_warns_once(tmp_path: Path) -> None:
    arguments = ("-b", "127.0.0.1:0", "-w", "2", "--threads", "3", "--keep-alive", "9")
    service = Supervised(tmp_path / "log", *GUNICORN, *arguments, "gunicorn_app:server", cwd=HERE)
    try:
        service.address(2)
        line = "settings without effect on GtcpWorker: keepalive, threads"
        assert service.log.count(line) == 1
    finally:
        service.kill()
