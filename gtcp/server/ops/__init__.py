"""Log lines, counters, health and registration.

Read ``logger`` (levels, escaping, the public ``BaseLogger``), ``access_log``, ``failure_log``
(rate-limited errors of handlers), ``background_log`` and ``log_stream`` (no waiting for a reader),
``log_setup`` (where the lines of ``gtcp serve`` go) and ``json_format``. Then ``metrics``
(counters of one process), ``status`` and ``stacks`` (what it is doing), ``health`` (whether it
takes calls) and ``register`` (in ZooKeeper).
"""
