"""The process around a server: signals, exit, forks, socket files.

The modules are independent of each other: ``stop_signals``, ``exit_limit``, ``forks``,
``socket_file`` and ``syn_filter``.
"""
