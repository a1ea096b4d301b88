"""The server: ``gtcp serve examples/codestats/server.py --workers 2``."""

from counting import COUNT, MAX_LINE_BYTES, Source, Stats, count

import gtcp

# While a handler computes, nothing is read: that a long line takes its time to arrive need
# not be the sender's fault, so it gets more than the default of 5 s.
defaults = gtcp.Settings(max_line_bytes=MAX_LINE_BYTES, line_timeout=60)
server = gtcp.Server(gtcp.Settings.load(base=defaults))


@server.handler(COUNT)
def codestats(request: gtcp.Request[Source]) -> Stats:
    """Counts the lines, functions, classes and tokens of a Python source."""
    return count(request.params)
