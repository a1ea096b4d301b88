"""The steps of a call: its deadline, its connection, retries; and many calls at a time.

A failed call is tried again if the handler certainly did not run, or if the call is idempotent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from time import monotonic
from typing import Any, Final

from gevent import get_hub

from gtcp.arguments import LONGEST_SECONDS, check_seconds, check_text, wrong_type
from gtcp.client.any_pool import AnyPool
from gtcp.client.arguments import check_choices, check_request
from gtcp.client.connections.reply import error_of, result_of
from gtcp.client.middleware import Middleware, composed
from gtcp.client.names import NamedPool
from gtcp.client.pipeline import Outcome, Pipeline
from gtcp.client.pools import Pools, never_return, run_in_thread_of, thread_ident
from gtcp.client.retry import Retry
from gtcp.deadline import current
from gtcp.errors import (
    CommandError,
    ConnectError,
    ConnectionLost,
    Executed,
    GtcpError,
    ProtocolError,
)
from gtcp.protocol.messages import GOING_AWAY, OWN_CMDID, Reply


class Default:
    """The type of the default of an argument: use the client's own setting."""


DEFAULT: Final = Default()


class Calls:
    """Completes calls; ``Client`` adds what users call.

    Args:
        timeout: seconds for a call that does not say otherwise, None for no limit.
        retry: decides whether a failed call is tried again.
        pools: the connections of each OS thread.
        errors: the classes of the application's errors.
        middleware: functions around the calls.
    """

    def __init__(
        self,
        timeout: float | None,
        retry: Retry,
        pools: Pools,
        errors: Iterable[type[CommandError]] = (),
        middleware: Iterable[Middleware] = (),
    ) -> None:
        self._middleware = composed(middleware)
        self._timeout = timeout
        self._retry = retry
        self._pools = pools
        self._errors = {each.own_code: each for each in errors if each.own_code is not None}

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
        pool: AnyPool,
        cmdid: Any,
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
            cmdid: the command's number; its name if the pool is a ``NamedPool``.
            failure: how a first attempt failed, if there was one.
        """
        attempt = 0
        earlier: Executed = "no"
        try:
            while True:
                if failure is not None:
                    attempt += 1
                    error = error_of(failure) if isinstance(failure, Reply) else failure
                    harmless = idempotent or pool.idempotent
                    self._retry.wait_or_raise(error, attempt, harmless, deadline)
                    if error.executed != "no":
                        earlier = "maybe"
                try:
                    connection = pool.ready() or pool.get_for(cmdid, params, deadline, meta)
                    reply: Reply = connection.call(cmdid, params, deadline, meta, raw)
                except (ConnectError, ConnectionLost, ProtocolError) as exc:
                    failure = exc
                else:
                    if reply.code != GOING_AWAY:
                        if reply.code and earlier != "no":
                            raise error_of(reply, self._errors, deadline)
                        return reply
                    connection.retire()
                    failure = reply
        except GtcpError as exc:
            if pool.left_to_parent:
                never_return()
            if exc.executed == "no":
                exc.executed = earlier
            raise

    def _pool(self, hash_key: str | None) -> AnyPool:
        """Return the calling thread's pool, for the calls with a key if there is one."""
        pool = self._pools.here()
        if hash_key is None:
            return pool
        check_text("hash_key", hash_key)
        return pool.pinned(hash_key)

    def _call_by_name(
        self,
        name: str,
        params: Any,
        timeout: float | Default | None,
        idempotent: bool,
        result: Any,
        meta: dict[str, str] | None,
        detach: bool,
        hash_key: str | None,
    ) -> Any:
        if name.isdecimal():  # a number as text
            wrong_type("cmdid", "an int, or the name of a command", name)
        check_request(OWN_CMDID, meta)
        check_choices(result, idempotent=idempotent, detach=detach)
        deadline = self._deadline(timeout, detach)
        pool = NamedPool(self._pool(hash_key))
        raw = result is not Any
        reply = self._complete(pool, name, params, deadline, meta, idempotent, raw)
        return result_from(reply, result, self._errors, deadline)

    def _map(
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
        pipeline = Pipeline(pool, cmdid, meta, timeout, window, ordered, raw, complete)
        try:
            for item in pipeline.items(source):
                assert item.outcome is not None
                try:
                    value = result_from(item.outcome, result, self._errors, item.deadline)
                except Exception as exc:
                    if not return_exceptions:
                        raise
                    value = exc
                yield value
                if thread_ident() != thread:
                    raise GtcpError("a map's results have to be taken in the thread it began in")
        finally:
            if thread_ident() == thread:
                pipeline.abandon()
            else:
                run_in_thread_of(hub, pipeline.abandon)


def result_from(
    outcome: Outcome,
    wanted: Any,
    errors: Mapping[int, type[CommandError]],
    deadline: float | None,
) -> Any:
    """The result of a call as the type that the caller asked for.

    Args:
        errors: the classes of the application's errors, by code.
        deadline: of the call.

    Raises:
        RemoteError: the reply's code is not 0.
        ProtocolError: the result does not fit the type.
        Exception: the outcome itself, when it is one.
    """
    if not isinstance(outcome, Reply):
        raise outcome
    if outcome.code != 0:
        raise error_of(outcome, errors, deadline)
    return result_of(outcome, wanted)
