"""The layer below the messages, for both sides: addresses, sockets, TLS, the shared secret.

Read ``address`` (where to listen or connect), ``sockets`` (blocking reads and writes on gevent's
loop), ``tls`` and ``tls_socket`` (certificates, and TLS that can be read and written at the same
time), ``secret`` (mutual proof of a shared secret) and ``identity`` (who the peer is).
"""
