"""The steps of a new connection before its first request.

Read ``admission`` (networks, number of connections), then ``steps`` (PROXY header, TLS, secret)
and ``proxy_header``.
"""
