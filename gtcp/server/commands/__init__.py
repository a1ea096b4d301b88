"""Registration and the call of a handler, without sockets.

Read ``handler`` (the public classes), ``registration``, ``command`` (a handler with its types),
``table`` (from lines to calls), ``hooks``, ``outcome`` (from a result or an exception to a reply)
and ``diagnosis`` (what is wrong with a line).
"""
