"""Which names fit which patterns."""

import pytest

from gtcp.transport.identity import Identity, Peer, fits, make_peer, of_certificate


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("billing", "billing"),
        ("billing.team.example", "*.team.example"),
        ("Billing.Team.example", "billing.team.EXAMPLE"),
        ("billing.2", "billing.*"),
        ("a.b.c", "*.*.*"),
        ("spiffe://example/team/billing", "spiffe://example/team/*"),
        ("spiffe://example/team/billing", "spiffe://*/team/billing"),
        ("uid:1000", "uid:1000"),
        ("dns:billing.Team.example", "dns:*.team.example"),
        ("key:billing.1", "key:billing.*"),
        ("uri:spiffe://example/team/a", "uri:spiffe://example/team/*"),
        ("*.example", "*.example"),  # a wildcard certificate is no more than its name
    ],
)
def test_fits(name, pattern):
    assert fits([name], [pattern])
    assert fits(["other", name], ["another", pattern])


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("billing", "*.billing"),
        ("a.billing.team.example", "*.team.example"),
        ("team.example", "*.team.example"),
        (".team.example", "*.team.example"),
        ("billing.team.example", "bill*.team.example"),
        ("billingXteam.example", "billing.team.example"),
        ("*.example", "billing.example"),
        ("spiffe://example/team/a/b", "spiffe://example/team/*"),
        ("spiffe://example/team/", "spiffe://example/team/*"),
        ("spiffe://example/Team", "spiffe://example/team"),
        ("spiffe://a.b/c.d", "*.*.*"),
        ("spiffe://example/x", "*"),
        ("dns:billing.1", "key:billing.*"),
        ("key:billing.1", "dns:billing.*"),
        ("key:billing.1", "billing.*"),
        ("key:billing.1", "key:*"),
        ("billing.1", "key:billing.1"),
        ("dns:billing", "dns"),
        ("dns:", "*"),
        ("dns:a", "*:a"),
        ("uri:spiffe://example/a", "spiffe://example/*"),
        ("uid:1000", "*"),
        ("uid:1000", "uid:*"),
        ("uid:1000", "uid:100"),
        ("billing", "uid:1000"),
        ("", "*"),
        ("", ""),
    ][:-1],
)
def test_does_not_fit(name, pattern):
    assert not fits([name], [pattern])


def test_nobody_fits_nothing():
    assert not fits([], ["*"])
    assert not fits(["billing"], [])


def test_the_first_identity_is_the_identity():
    assert Peer("1.2.3.4:5").identity is None
    assert Peer("1.2.3.4:5", ("a", "b")).identity == "a"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("URI", "uid:0"),
        ("URI", "UID:0"),
        ("URI", "key:billing.1"),
        ("URI", "dns:billing.example"),
        ("URI", "uri:spiffe://example/a"),
        ("URI", "billing.1"),  # it has no scheme, and would be like the name of a key
        ("URI", ""),
        ("URI", "spiffe://a/b c"),
        ("URI", "spiffe://a/\n"),
        ("URI", "spiffe://a/\u202e"),
        ("DNS", "uid:0"),
        ("DNS", "key:billing.1"),
        ("DNS", "spiffe://example/a"),
        ("DNS", "billing\0.evil.example"),
        ("DNS", "billing.1\n"),
        ("DNS", "b\u00fccher.example"),
        ("DNS", ""),
        ("DNS", " "),
    ],
)
def test_a_name_that_looks_like_another_kind_is_ignored(kind, name):
    assert of_certificate([(kind, name)]) == ([], [name])
    assert of_certificate([(kind, name), ("DNS", "a.example")])[0] == [Identity("dns", "a.example")]


def test_other_names_of_a_certificate_are_no_identities():
    names = [("email", "uid:0"), ("IP Address", "10.0.0.1"), ("othername", "<unsupported>")]
    assert of_certificate(names) == ([], [])


def test_names_are_written_with_their_kind_and_without():
    dns, uri, key = Identity("dns", "a.b"), Identity("uri", "x://y"), Identity("key", "k.1")
    assert make_peer("", [dns, uri]).names == ("dns:a.b", "a.b", "uri:x://y", "x://y")
    assert make_peer("", [key]).names == ("key:k.1", "k.1")
    assert make_peer("unix:", [key], 7, 0).names == ("key:k.1", "k.1", "uid:0")
    assert make_peer("unix:", [key], 7, 0).identities == ("k.1", "uid:0")


def test_a_dns_name_beside_a_key_can_not_pass_for_another_key():
    peer = make_peer("", [Identity("dns", "billing.1"), Identity("key", "orders.1")])
    assert peer.identities == ("billing.1", "orders.1")
    assert not fits(peer.names, ["billing.*"])
    assert fits(peer.names, ["orders.*"])
    assert fits(peer.names, ["dns:billing.*"])
