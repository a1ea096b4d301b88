"""From a host name to a connected socket.

Read ``dial`` (TLS and the secret included), ``connect`` (several addresses, Happy Eyeballs),
``resolve`` (name lookup in threads of its own) and ``history`` (which address worked).
"""
