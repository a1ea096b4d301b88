"""The admin port: health, metrics and the state of a running server, for its operators.

Read ``operations`` (what a server with an admin address runs beside its requests), then ``http``
(the port), ``metric_files`` (numbers that several processes add up), ``snapshots`` and ``slots``
(the status of each process), ``status_page``, and ``blocked`` (handlers that keep the event loop).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def start_operations(context: Any, metrics: Any, folder: Path | None) -> Any:
    """Open the admin port of a server; what it needs is imported here, when there is one."""
    from gtcp.server.admin.operations import Operations

    return Operations(context, metrics, folder)
