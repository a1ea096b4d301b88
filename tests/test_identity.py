"""Which names fit which patterns."""

import pytest

from gtcp.identity import Peer, fits


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
