"""docs/settings.md lists every setting as it is."""

from pathlib import Path

import gtcp

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"


def row(setting):
    kind = setting.type.replace("|", "\\|")
    return f"| `{setting.name}` | `{kind}` | `{setting.default!r}` | {setting.meaning} |"


def test_every_setting_is_listed_with_its_type_default_and_meaning():
    listed = [
        line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")
    ]
    assert listed == [row(setting) for setting in gtcp.Settings.describe()]
