"""One connection of a client, shared by many calls.

Read ``connection`` (calls), ``receiving`` (replies), ``closing`` (state, and how it ends),
``waiter`` (a greenlet that waits for one reply), ``items`` (the replies of a stream),
``write_buffer`` (requests not yet sent), ``reply`` (from a line to a result or an error), then
``busy_poll`` (a single call waits without the event loop) and ``forks``.
"""
