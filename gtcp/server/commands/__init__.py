"""Registration and the call of a handler, without sockets.

Read ``handler`` (the public classes), ``registration``, ``command`` and ``annotations`` (a handler
with its types), ``streaming``, ``table`` (from lines to calls), ``hooks`` and ``middleware``,
``outcome`` (from a result or an exception to a reply) and ``diagnosis`` (what is wrong with a
line).
"""
