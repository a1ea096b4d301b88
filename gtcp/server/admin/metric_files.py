"""Metrics of several processes in shared files, added up when they are read.

The files are prometheus-client's multi-process store, and its collector reads them. A process
writes the totals that changed once a second, so that a request costs no write, and continues the
files of an earlier process: there are as many as processes at a time, however many come and go.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gtcp.server.admin.slots import Slot, is_taken
from gtcp.server.ops.metrics import Sample

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

MISSING = "metrics need prometheus-client: pip install 'gtcp-rpc[prometheus]'"


class MetricFiles:
    """The files of one process. Belongs to one greenlet at a time.

    Args:
        slot: names the files.

    Raises:
        ImportError: prometheus-client is not installed.
    """

    def __init__(self, slot: Slot) -> None:
        from prometheus_client.mmap_dict import MmapedDict, mmap_key

        self._open: Any = MmapedDict
        self._key: Any = mmap_key
        self._folder, self._slot = slot.folder, slot.name
        self._gauges.unlink(missing_ok=True)
        self._files: dict[str, Any] = {}
        self._written: dict[Sample, tuple[Any, str, float]] = {}  # series -> file, key, base
        self._last: dict[Sample, float] = {}

    def write(self, samples: Iterable[Sample]) -> None:
        """Write what has changed since the last time.

        Args:
            samples: totals since the process started, and gauges.
        """
        for sample in samples:
            series = sample._replace(value=0.0)
            if self._last.get(series) == sample.value:
                continue
            self._last[series] = sample.value
            place = self._written.get(series)
            if place is None:
                place = self._written[series] = self._place(sample)
            file, key, base = place
            file.write_value(key, base + sample.value, 0.0)

    def close(self) -> None:
        """Release the files; the next process continues them."""
        self._gauges.unlink(missing_ok=True)
        for file in self._files.values():
            file.close()
        self._files.clear()
        self._written.clear()

    def render(self) -> bytes:
        """Return the metrics of all processes, in Prometheus' text format.

        If the application has metrics of its own in the same folder, they are part of it.
        """
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        self._drop_gauges_of_the_dead()
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(self._folder))  # type: ignore[no-untyped-call]
        text: bytes = generate_latest(registry)
        return text

    @property
    def _gauges(self) -> Path:
        return self._folder / f"gauge_livesum_{self._slot}.db"

    def _drop_gauges_of_the_dead(self) -> None:
        for path in self._folder.glob("gauge_livesum_gtcp*.db"):
            slot = path.stem.removeprefix("gauge_livesum_")
            if slot != self._slot and not is_taken(self._folder, slot):
                path.unlink(missing_ok=True)

    def _place(self, sample: Sample) -> tuple[Any, str, float]:
        kind = "gauge_livesum" if sample.kind == "gauge" else sample.kind
        file = self._files.get(kind)
        if file is None:
            path = self._folder / f"{kind}_{self._slot}.db"
            file = self._files[kind] = self._open(str(path))
        names, values = zip(*sample.labels, strict=True) if sample.labels else ((), ())
        key = self._key(sample.metric, sample.name, names, values, sample.meaning)
        base = 0.0 if sample.kind == "gauge" else file.read_value(key)[0]
        return file, key, base
