"""The client: ordinary call and return over pooled connections.

Read ``client`` (the public class), ``pool`` and ``pools`` (which connection a call uses),
``retry``, ``pipeline`` (many calls at a time), ``streams`` (many results of one call), ``names``
(calls by name), then ``connections`` (requests and replies on one connection) and ``dialing`` (from
a name to a connected, authenticated socket). ``stub`` is the base of what ``gtcp stubs`` writes.
"""
