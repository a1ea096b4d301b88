import pickle

import pytest

import gtcp
from gtcp.errors import REFUSALS, CommandError


@pytest.mark.parametrize(
    "kind",
    [
        gtcp.ConnectError,
        gtcp.PoolTimeout,
        gtcp.CallTimeout,
        gtcp.ConnectionLost,
        gtcp.ProtocolError,
        gtcp.RemoteError,
        gtcp.RemoteTimeout,
    ],
)
def test_everything_has_one_root(kind):
    assert issubclass(kind, gtcp.GtcpError)


def test_what_never_left_did_not_run():
    assert gtcp.ConnectError("x").executed == "no"
    assert gtcp.PoolTimeout("x").executed == "no"
    assert gtcp.CallTimeout("x").executed == "maybe"
    assert gtcp.ConnectionLost("x").executed == "maybe"
    assert gtcp.ConnectionLost("x", executed="no").executed == "no"


@pytest.mark.parametrize("kind", [gtcp.PoolTimeout, gtcp.CallTimeout, gtcp.RemoteTimeout])
def test_what_came_too_late_is_a_timeout_error(kind):
    assert issubclass(kind, TimeoutError)


@pytest.mark.parametrize("code", sorted(REFUSALS))
def test_a_refused_call_did_not_run(code):
    assert gtcp.RemoteError(code, "refused").executed == "no"


@pytest.mark.parametrize("code", [500, 1000, 4711])
def test_a_call_whose_handler_answered_did_run(code):
    assert gtcp.RemoteError(code, "failed").executed == "yes"


@pytest.mark.parametrize(
    ("data", "executed"),
    [({"executed": "no"}, "no"), (None, "maybe"), ({}, "maybe"), ({"executed": "yes"}, "maybe")],
)
def test_a_late_call_is_refused_or_was_stopped(data, executed):
    late = gtcp.RemoteTimeout(408, "late", data)
    assert late.executed == executed
    assert isinstance(late, gtcp.CallTimeout)


@pytest.mark.parametrize(
    "error", [gtcp.RemoteError(1000, "broke", {"a": 1}), gtcp.RemoteTimeout(408, "late", [])]
)
def test_a_remote_error_survives_pickling(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (again.code, again.message, again.data) == (error.code, error.message, error.data)
    assert again.executed == error.executed
    assert str(again) == str(error)


def test_a_command_error_survives_pickling():
    again = pickle.loads(pickle.dumps(CommandError(1234, "no money", {"left": 0})))
    assert (again.code, again.message, again.data) == (1234, "no money", {"left": 0})
    assert str(again) == "1234 no money"


@pytest.mark.parametrize("code", [0, 404, 999, -1, True, "1000", 1000.0, None])
def test_a_command_error_has_a_code_of_the_application(code):
    with pytest.raises(ValueError, match="1000 or more"):
        CommandError(code, "x")


def test_a_cancelled_handler_is_not_stopped_by_except_exception():
    assert not issubclass(gtcp.Cancelled, Exception)
    assert not issubclass(gtcp.Cancelled, gtcp.GtcpError)
