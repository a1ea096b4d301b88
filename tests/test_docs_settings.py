"""docs/reference/settings.md lists every setting with its variable, default, meaning and values."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import gtcp
from gtcp.server.settings import Description

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "settings.md"

SETTINGS = {each.name: each for each in gtcp.Settings.describe()}


def row(setting: Description) -> str:
    name = f"`{setting.name}` `GTCP_{setting.name.upper()}`"
    return f"| {name} | `{setting.toml}` | {setting.meaning}: {setting.expected} |"


def listed() -> dict[str, str]:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return {found[1]: line for line in lines if (found := re.match(r"\| `(\w+)` `GTCP_", line))}


def test_the_page_lists_the_settings_and_no_others() -> None:
    assert set(listed()) == set(SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_listed_as_it_is(name: str) -> None:
    assert listed()[name] == row(SETTINGS[name])


@pytest.mark.parametrize("name", SETTINGS)
def test_the_default_as_shown_is_read_from_a_file_and_from_a_variable(
    name: str, tmp_path: Path
) -> None:
    shown = listed()[name].split("|")[2].strip().strip("`")
    (tmp_path / "settings.toml").write_text(f"{name} = {shown}\n")
    changed = SETTINGS[name].default is not None and name in ("idle_timeout", "port")
    base = gtcp.Settings(**{name: 1}) if changed else None
    assert gtcp.Settings.load(tmp_path / "settings.toml", env={}, base=base) == gtcp.Settings()
