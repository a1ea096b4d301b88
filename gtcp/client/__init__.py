"""The client: ordinary call and return over pooled connections.

Read ``client`` (the public class), ``pool`` and ``pools`` (which connection a call uses),
``retry``, then ``connections`` (requests and replies on one connection) and ``dialing`` (from a
name to a connected, authenticated socket).
"""
