"""The requests of one peer.

Read ``connection`` (receive, call, reply), ``receiving`` and ``reader`` (from bytes to requests),
``pending`` and ``in_flight`` (requests that wait, and that run), ``streams`` (handlers that send
many items), ``write_buffer`` (replies not yet sent), ``scheduler`` and ``followers`` (which
greenlet runs what), ``overload`` (load shedding), ``closing`` (drain) and ``sweeper`` (idle peers).
"""
