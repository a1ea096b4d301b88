"""A worker that gets SIGTERM while it still patches the standard library."""

from __future__ import annotations

import os
import signal

from gtcp.server.worker import GtcpWorker


class ToldEarly(GtcpWorker):
    def patch(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        super().patch()
