"""The process around a server: signals, exit, forks, socket files.

Read ``supervision`` (what a serving process does for its supervisor), ``stop_signals`` and
``systemd``. The others are independent of each other: ``exit_limit``, ``forks``, ``pid_file``,
``socket_file`` and ``syn_filter``.
"""
