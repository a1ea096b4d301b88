"""How a call is completed: its deadline, its connection, retries; and many calls at a time.

A failed call is tried again if the handler certainly did not run, or if the call is idempotent.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic
from typing import Any, Final

from gevent import get_hub

from gtcp.arguments import LONGEST_SECONDS, check_seconds
from gtcp.client.connections.reply import error_of, result_of
from gtcp.client.pool import Pool
from gtcp.client.pools import Pools, never_return
from gtcp.client.retry import Retry
from gtcp.client.stream import Outcome, Stream
from gtcp.client.threads import run_in_thread_of, thread_ident
from gtcp.deadline import current
from gtcp.errors import ConnectError, ConnectionLost, Executed, GtcpError, ProtocolError
from gtcp.protocol.messages import GOING_AWAY, Reply


class Default:
    """The type of the default of an argument: use the client's own setting."""


DEFAULT: Final = Default()


class Calls:
    """Completes calls; ``Client`` adds what users call.

    Args:
        timeout: seconds for a call that does not say otherwise, None for no limit.
        retry: decides whether a failed call is tried again.
        pools: the connections of each OS thread.
    """

    def __init__(self, timeout: float | None, retry: Retry, pools: Pools) -> None:
        self._timeout = timeout
        self._retry = retry
        self._pools = pools

    def _seconds(self, timeout: float | Default | None) -> float | None:
        if isinstance(timeout, Default):
            return self._timeout
        kind = type(timeout)
        if (kind is not float and kind is not int) or not 0 <= timeout <= LONGEST_SECONDS:  # type: ignore[operator]
            check_seconds("timeout", timeout)
        return timeout

    def _deadline(self, timeout: float | Default | None, detach: bool) -> float | None:
        seconds = self._seconds(timeout)
        own = None if seconds is None else monotonic() + seconds
        inherited = None if detach else current()
        if inherited is None:
            return own
        return inherited if own is None else min(own, inherited)

    def _complete(  # noqa: C901  one frame less for every call
        self,
        pool: Pool,
        cmdid: int,
        params: Any,
        deadline: float | None,
        meta: dict[str, str] | None,
        idempotent: bool,
        raw: bool,
        failure: Reply | GtcpError | None = None,
    ) -> Reply:
        """Send a call, retry it if it fails, and return its final reply.

        It stays with the pool in which it began. So if the process forks meanwhile, the child
        recognises its copy of the call, which belongs to the parent, and blocks it for ever.
        ``executed`` of the exception covers all attempts together.

        Args:
            failure: how a first attempt failed, if there was one.
        """
        attempt = 0
        earlier: Executed = "no"
        try:
            while True:
                if failure is not None:
                    attempt += 1
                    error = error_of(failure) if isinstance(failure, Reply) else failure
                    self._retry.wait_or_raise(error, attempt, idempotent, deadline)
                    if error.executed != "no":
                        earlier = "maybe"
                try:
                    connection = pool.ready() or pool.get_for(cmdid, params, deadline, meta)
                    reply = connection.call(cmdid, params, deadline, meta, raw)
                except (ConnectError, ConnectionLost, ProtocolError) as exc:
                    failure = exc
                else:
                    if reply.code != GOING_AWAY:
                        if reply.code and earlier != "no":
                            raise error_of(reply)
                        return reply
                    connection.retire()
                    failure = reply
        except GtcpError as exc:
            if pool.left_to_parent:
                never_return()
            if exc.executed == "no":
                exc.executed = earlier
            raise

    def _stream(
        self,
        cmdid: int,
        source: Iterator[Any],
        window: int,
        ordered: bool,
        timeout: float | None,
        idempotent: bool,
        result: Any,
        meta: dict[str, str] | None,
        return_exceptions: bool,
    ) -> Iterator[Any]:
        pool = self._pools.here()
        hub, thread = get_hub(), thread_ident()

        def complete(params: Any, deadline: float | None, failure: Reply | GtcpError) -> Reply:
            return self._complete(pool, cmdid, params, deadline, meta, idempotent, raw, failure)

        raw = result is not Any
        stream = Stream(pool, cmdid, meta, timeout, window, ordered, raw, complete)
        try:
            for outcome in stream.outcomes(source):
                try:
                    value = result_from(outcome, result)
                except Exception as exc:
                    if not return_exceptions:
                        raise
                    value = exc
                yield value
                if thread_ident() != thread:
                    raise GtcpError("a map's results have to be taken in the thread it began in")
        finally:
            if thread_ident() == thread:
                stream.abandon()
            else:
                run_in_thread_of(hub, stream.abandon)


def result_from(outcome: Outcome, wanted: Any) -> Any:
    """The result of a call as the type that the caller asked for.

    Raises:
        RemoteError: the reply's code is not 0.
        ProtocolError: the result does not fit the type.
        Exception: the outcome itself, when it is one.
    """
    if not isinstance(outcome, Reply):
        raise outcome
    if outcome.code != 0:
        raise error_of(outcome)
    return result_of(outcome, wanted)
