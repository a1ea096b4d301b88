"""``gtcp demo``: a server with sample commands, and a tour of them.

Read ``app`` (the handlers), ``tour`` (the calls), ``relay`` (records their bytes) and ``child``
(the server's process).
"""
