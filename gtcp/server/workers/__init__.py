"""Parts of a service with several worker processes, which gunicorn supervises.

Read ``arbiter`` (reloads and replacements), ``board`` (what workers tell each other),
``reload_check`` (code is tried before the old workers stop), ``shared_socket`` (what they accept
from), then ``gunicorn_settings`` and ``gunicorn_logs``.
"""
