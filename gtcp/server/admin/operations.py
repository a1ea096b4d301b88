"""The admin port of a server, with the metrics and the watch behind it.

With the setting ``admin``: the admin port, the metrics, and the watch for handlers that keep the
event loop. Without it nothing of this is imported.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

from gevent import get_hub, sleep, spawn

from gtcp.errors import SettingsError
from gtcp.server.admin.blocked import BlockWatch
from gtcp.server.admin.http import AdminPort, Page, text
from gtcp.server.admin.metric_files import CONTENT_TYPE, MISSING, MetricFiles
from gtcp.server.admin.slots import Slot, new_folder
from gtcp.server.admin.snapshots import Snapshots
from gtcp.server.admin.status_page import StatusPage
from gtcp.server.connections.context import Context
from gtcp.server.connections.inspection import process_status
from gtcp.server.ops.logger import SERVER
from gtcp.server.ops.metrics import Metrics, Sample
from gtcp.server.ops.status import LISTED, Rates, Status, merged
from gtcp.transport import address

log = logging.getLogger(SERVER)

#: Seconds between two writes of the metrics: a crash loses no more.
WRITE_SECONDS = 1.0

#: Seconds between two measurements of how late a timer is.
LAG_SECONDS = 0.1


class Operations:
    """The admin port of one server, and what it shows. Belongs to the server's hub.

    Args:
        context: the server's state.
        metrics: what it counts.
        folder: where the processes of the service add up their metrics; None for one process.

    Raises:
        OSError: the admin address is in use or not permitted.
        SettingsError: the folder of the metrics can't be used.
    """

    def __init__(self, context: Context, metrics: Metrics, folder: Path | None) -> None:
        self._context, self._metrics = context, metrics
        self._own_folder = None if folder else new_folder()
        self._slot = _slot(folder or self._own_folder or Path())
        self._files = _files(self._slot)
        self._snapshots, self._rates = Snapshots(self._slot), Rates(metrics)
        self._due = monotonic() + LAG_SECONDS
        self._timer: Any = get_hub().loop.timer(LAG_SECONDS, LAG_SECONDS, ref=False)
        page = StatusPage(self.status)
        views = {
            "/": page.html,
            "/events": page.events,
            "/livez": self._livez,
            "/metrics": self._show_metrics,
            "/readyz": self._readyz,
            "/status": page.json,
        }
        where = address.parse_admin(context.settings.admin or "")
        try:
            self._port: AdminPort | None = AdminPort(where, views, shared=folder is not None)
        except BaseException:
            self._close_files()
            raise
        self.address = self._port.address
        self._watch = BlockWatch(context.scheduler, metrics)
        # The other processes list this one from the moment its port may answer.
        self._write_status()
        self._timer.start(self._measure_lag)
        self._writer = spawn(self._write_forever)

    def leave(self) -> None:
        """Listen on the admin port no more, when other processes of the service do."""
        port, self._port = self._port, None
        if port is not None:
            port.close()

    def close(self) -> None:
        """Write the last metrics, and end."""
        self.leave()
        self._timer.close()
        self._watch.close()
        self._writer.kill()
        self._write()
        self._close_files()

    def abandon(self) -> None:
        """Stop in a forked child: port and files are the parent's."""
        self._timer.close()
        if self._port is not None:
            self._port.abandon()

    def status(self, most: int = LISTED) -> Status:
        """Return what the server does, all its processes together.

        Args:
            most: how many running calls of this process to list.
        """
        own = process_status(self._context, self._rates, most)
        return merged(own, self._snapshots.others(), most)

    # Views

    def _livez(self) -> Page:
        return text("ok")

    def _readyz(self) -> Page:
        status = self._context.health.status
        if status == "SERVING":
            return text("ok")
        return text(status.lower().replace("_", " "), "503 Service Unavailable")

    def _show_metrics(self) -> Page:
        if self._files is None:
            return text(MISSING, "501 Not Implemented")
        self._write()
        return Page("200 OK", CONTENT_TYPE, self._files.render())

    # Metrics

    def _measure_lag(self) -> None:
        now = monotonic()
        self._metrics.lag.observe(max(0.0, now - self._due))
        self._due = now + LAG_SECONDS

    def _write_forever(self) -> None:
        while True:
            sleep(WRITE_SECONDS)
            self._write()
            self._rates.look()
            self._write_status()

    def _write(self) -> None:
        if self._files is not None:
            self._files.write(self._samples())

    def _write_status(self) -> None:
        self._snapshots.write(process_status(self._context, self._rates))

    def _samples(self) -> Iterator[Sample]:
        yield from self._metrics.samples()
        context = self._context
        yield _gauge("gtcp_connections", len(context.connections), "Open connections.")
        yield _gauge("gtcp_in_flight", len(context.in_flight), "Calls whose handler waits.")
        queued = context.scheduler.queued.total()
        yield _gauge("gtcp_queued", queued, "Requests that wait for the processor.")

    def _close_files(self) -> None:
        if self._files is not None:
            self._files.close()
        self._snapshots.close()
        self._slot.close()
        if self._own_folder is not None:
            shutil.rmtree(self._own_folder, ignore_errors=True)


def _slot(folder: Path) -> Slot:
    try:
        return Slot(folder)
    except OSError as exc:
        raise SettingsError(f"can't use the folder {folder} for metrics: {exc.strerror}") from exc


def _files(slot: Slot) -> MetricFiles | None:
    """Return the files of the metrics; None if prometheus-client is not installed."""
    try:
        return MetricFiles(slot)
    except ImportError:
        return None


def _gauge(name: str, value: float, meaning: str) -> Sample:
    return Sample("gauge", name, name, (), meaning, value)
