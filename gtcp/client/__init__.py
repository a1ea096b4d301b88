"""The client: ordinary call and return over pooled connections.

Read ``client`` (the public class), ``calls`` (the steps of a call), ``pool`` and ``pools`` (which
connection it uses), ``retry``, ``pipeline`` (many calls at a time), ``streams`` (many results of
one call), ``names`` (calls by name), then ``connections`` (requests and replies on one connection),
``dialing`` (from a name to a connected, authenticated socket) and ``hosts`` (several hosts).
``middleware`` and ``metrics`` are functions around calls and counters of them; ``stub`` is the base
of what ``gtcp stubs`` writes.
"""
