"""The reference has every public name, option and setting."""

from __future__ import annotations

import html
import inspect
import re
from pathlib import Path

import click
import pytest

import gtcp
import gtcp.testing
from gtcp.cli.command import cli
from tests.public_names import members

#: Methods and properties for gtcp's own parts: workers, the command line, the handling of forks.
INTERNAL = {
    "Client.address", "Client.dial", "Commands.hooks", "Commands.table", "Request.rawBody",
    "Server.announce_drain", "Server.check", "Server.cut_by", "Server.has_secret",
    "Server.leave", "Server.leave_to_parent",
    "Settings.check_together",
    # Documented by the class as a whole.
    "BaseLogger.critical", "BaseLogger.debug", "BaseLogger.error", "BaseLogger.exception",
    "BaseLogger.info", "BaseLogger.warn", "BaseLogger.warning",
}  # fmt: skip

#: Of exceptions; documented once, by their root.
EXECUTED = {f"{name}.executed" for name in gtcp.__all__ if name != "GtcpError"}

PAGES = ("reference/client", "reference/server", "reference/errors", "reference/testing")


def anchors(built: Path) -> set[str]:
    """Return the anchors of the API reference: the full names of what is documented there."""
    text = "".join((built / f"{page}.html").read_text(encoding="utf-8") for page in PAGES)
    return set(re.findall(r'id="(gtcp\.[\w.]+)"', text))


def test_every_public_name_is_in_the_reference(built: Path) -> None:
    names = {f"gtcp.{name}" for name in gtcp.__all__}
    names |= {f"gtcp.testing.{name}" for name in gtcp.testing.__all__}
    names |= {"gtcp.testing.plugin.gtcp_server", "gtcp.testing.plugin.gtcp_proxy"}
    assert names - anchors(built) == set()


def test_every_public_method_and_property_is_in_the_reference(built: Path) -> None:
    found = anchors(built)
    missing = []
    for package in (gtcp, gtcp.testing):
        for name in package.__all__:
            for member in members(getattr(package, name)):
                full = f"{package.__name__}.{name}.{member}"
                if full not in found and f"{name}.{member}" not in INTERNAL | EXECUTED:
                    missing.append(full)
    assert missing == []


def test_the_client_s_options_are_in_a_table_with_their_defaults() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "client.md").read_text("utf-8")
    shown: dict[str, str] = {}
    for names, default in re.findall(r"^\| (`.+?`) \| (\S+) \|", page, re.MULTILINE):
        shown |= dict.fromkeys(re.findall(r"`(\w+)`", names), default)
    options = dict(inspect.signature(gtcp.Client).parameters)
    del options["address"]
    wanted = {name: str(option.default) for name, option in options.items()}
    assert shown == {**wanted, "secret": "environment"}


def options() -> list[tuple[str, str]]:
    """Return each subcommand with each option that its help shows."""
    found = []
    for name, command in cli.commands.items():
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                found += [(name, spelling) for spelling in parameter.opts]
    return found


@pytest.mark.parametrize(("command", "option"), options())
def test_every_option_is_in_the_reference(built: Path, command: str, option: str) -> None:
    page = (built / "reference/cli.html").read_text(encoding="utf-8")
    assert f'id="cmdoption-gtcp-{command}-{option.lstrip("-")}"' in page


@pytest.mark.parametrize("name", cli.commands)
def test_every_option_has_help(name: str) -> None:
    options = [each for each in cli.commands[name].params if isinstance(each, click.Option)]
    assert not [each.name for each in options if not each.hidden and not each.help]


@pytest.mark.parametrize("command", cli.commands)
def test_the_help_of_every_command_is_in_the_reference(built: Path, command: str) -> None:
    page = (built / "reference/cli.html").read_text(encoding="utf-8")
    text = " ".join(html.unescape(re.sub("<[^>]+>", "", page)).split())
    first = (cli.commands[command].help or "").split("\n\n")[0]
    assert " ".join(first.split()) in text


@pytest.mark.parametrize("name", [each.name for each in gtcp.Settings.describe()])
def test_every_setting_is_in_the_reference(built: Path, name: str) -> None:
    page = (built / "reference/settings.html").read_text(encoding="utf-8")
    assert f">{name}<" in page
    assert f">GTCP_{name.upper()}<" in page


@pytest.mark.parametrize("code", [400, 401, 403, 404, 405, 408, 413, 422, 429, 500, 503])
def test_every_code_is_explained(built: Path, code: int) -> None:
    for page in ("reference/errors", "reference/wire"):
        text = (built / f"{page}.html").read_text(encoding="utf-8")
        assert re.search(rf"<td><p>{code}</p></td>", text), page
