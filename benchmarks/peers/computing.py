"""gtcp with a handler that computes, for `gtcp serve`; not a peer.

The parent measures how much work two milliseconds are and says so in the environment, so that
one worker and two have the same to do.
"""

import os
from time import process_time
from typing import Any

import gtcp
from benchmarks.echo import ECHO

#: The environment variable that says how many turns a call takes.
LOOPS = "BENCHMARK_LOOPS"

WHO = ECHO + 1


def compute(turns: int) -> int:
    total = 0
    for each in range(turns):
        total += each * each
    return total


def turns_in(seconds: float) -> int:
    """How many turns of `compute` take so long here."""
    turns = 1000
    while True:
        start = process_time()
        compute(turns)
        took = process_time() - start
        if took > 0.05:
            return max(1, int(turns * seconds / took))
        turns *= 2


server = gtcp.Server()


@server.handler(ECHO)
def computing(request: Any) -> Any:
    compute(int(os.environ[LOOPS]))
    return request.params


@server.handler(WHO)
def who(_request: Any) -> int:
    return os.getpid()
