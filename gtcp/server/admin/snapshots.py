"""The status of each process of a service, in files that the others read.

Each process replaces its file once a second. The file of a process that has ended is ignored.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import msgspec

from gtcp.server.admin.slots import Slot, is_taken
from gtcp.server.ops.logger import SERVER
from gtcp.server.ops.status import ProcessStatus

log = logging.getLogger(SERVER)

_decode = msgspec.json.Decoder(ProcessStatus).decode


class Snapshots:
    """The files of a service, as one of its processes uses them.

    Args:
        slot: the place of the process.
    """

    def __init__(self, slot: Slot) -> None:
        self._folder, self._name = slot.folder, slot.name
        self._own = self._file(slot.name)
        self._failed = False

    def write(self, status: ProcessStatus) -> None:
        """Replace the own file; if that fails, log it once."""
        draft = self._own.with_suffix(".new")
        try:
            draft.write_bytes(msgspec.json.encode(status))
            draft.replace(self._own)
        except OSError as exc:
            if not self._failed:
                log.warning("can't write %s: %s", self._own, exc.strerror)
            self._failed = True
        else:
            self._failed = False

    def others(self) -> list[ProcessStatus]:
        """Return what the other running processes have written last."""
        found = []
        for path in self._folder.glob("status_gtcp*.json"):
            name = path.stem.removeprefix("status_")
            # A file that is gone, or of another version of gtcp.
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                if name != self._name and is_taken(self._folder, name):
                    found.append(_decode(path.read_bytes()))
        return found

    def close(self) -> None:
        """Remove the own file."""
        with contextlib.suppress(OSError):
            self._own.unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self._folder / f"status_{name}.json"
