"""Text that may be a secret is not shown; other text is."""

from __future__ import annotations

import secrets

import pytest

from gtcp.errors import SettingsError
from gtcp.masking import may_be_secret, shown
from gtcp.server.settings import Settings
from gtcp.transport.address import parse
from gtcp.transport.secret import find_keys
from gtcp.transport.tls import server_context

HEX = secrets.token_hex(32)
PEM = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEG\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    "text",
    [f"billing.1:{HEX}", HEX, f" {HEX}\n", "a:" + "x1" * 8, PEM, "k=1\n" * 9],
    ids=["key", "token", "token with blanks", "short key", "PEM", "lines"],
)
def test_what_looks_like_a_secret_is_not_shown(text):
    assert may_be_secret(text)
    assert text not in shown(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "secret", "/run/secrets/billing", "/etc/gtcp/server.pem", "./a:b", "127.0.0.1:8889",
        "tcp://10.0.0.1:8889", "unix:/run/app/app.sock", "a\nb", "billing.team.example:8889",
        "host:" + "9" * 400, "a-file-whose-name-is-quite-long-indeed",
    ],
)  # fmt: skip
def test_what_does_not_is(text):
    assert shown(text) == text


def test_a_secret_in_place_of_a_files_name_is_in_no_message_and_no_repr():
    key = f"billing.1:{HEX}"
    for name in ("secret_file", "tls_cert", "tls_key", "tls_ca"):
        for text in (key, HEX, PEM):
            with pytest.raises(
                SettingsError, match=f"{name}: expected the path of a file"
            ) as caught:
                Settings(**{name: text})
            assert text not in str(caught.value)
    uses = (
        lambda: find_keys(key),
        lambda: find_keys("nul\0" + key),
        lambda: parse(key),
        lambda: server_context(PEM, PEM, None, require_client_cert=False),
    )
    for use in uses:
        with pytest.raises(ValueError, match=r"can.t|not an address") as wrong:
            use()
        assert HEX not in str(wrong.value)
        assert "MIGH" not in str(wrong.value)
