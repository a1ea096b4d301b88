import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtcp.transport.address import Address, of_peer, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost", Address("localhost", 8889)),
        ("127.0.0.1:0", Address("127.0.0.1", 0)),
        ("example.org:65535", Address("example.org", 65535)),
        ("[::1]:80", Address("::1", 80)),
        ("[::1]", Address("::1", 8889)),
        ("::1", Address("::1", 8889)),
        ("fe80::1%eth0", Address("fe80::1%eth0", 8889)),
        ("unix:/run/gtcp.sock", Address(path="/run/gtcp.sock")),
        ("unix:relative:odd", Address(path="relative:odd")),
    ],
)
def test_is_read_as_users_write_it(text, expected):
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", ":80", "host:", "host:port", "host:-1", "host:65536", "host:1_0"),
        *("host:\u0663", "host: 80", "unix:", "[::1", "[::1]80", "[::1]:", "[host]:80", "[]"),
        *("http://host:80", "http://host", "a:b:c", "::g", "1:2:3", ":::", "[::g]:80", "[1:2]"),
        *("::1%", "::1%a/b", "my host", "host\n", "host/path", "host:99999", "host:" + "9" * 5000),
    ],
)
def test_what_is_none_is_refused_by_its_name(text):
    with pytest.raises(ValueError, match="is not an address: expected host") as refused:
        parse(text)
    assert repr(text) in str(refused.value)
    assert str(refused.value).isprintable()


def test_a_wrong_port_is_named_as_what_is_wrong():
    for text in ("host:99999", "host:", "[::1]:http"):
        with pytest.raises(ValueError, match="a port is a number from 0 to 65535"):
            parse(text)


@pytest.mark.parametrize("text", ["host:1", "[::1]:1", "unix:/a", "127.0.0.1:8889"])
def test_is_written_as_it_is_read(text):
    assert str(parse(text)) == text


@given(st.text())
def test_any_text_is_read_or_refused(text):
    try:
        address = parse(text)
    except ValueError:
        return
    assert parse(str(address)) == address


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (("127.0.0.1", 4000), "127.0.0.1:4000"),
        (("::1", 4000, 0, 0), "[::1]:4000"),
        ("", "unix:"),
        (b"", "unix:"),
        ("/tmp/client.sock", "unix:"),
    ],
)
def test_of_a_peer_is_one_string(name, expected):
    assert of_peer(name) == expected
