"""Log lines, counters and health.

Read ``logger`` (levels, escaping, the public ``BaseLogger``), ``access_log``, ``failure_log``
(rate-limited errors of handlers), ``background_log`` and ``log_stream`` (no waiting for a reader),
``log_setup`` (where the lines of ``gtcp serve`` go).
"""
