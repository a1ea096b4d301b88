"""GET from the admin port, and reading what Prometheus would read."""

from __future__ import annotations

import http.client
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families


class Answer(NamedTuple):
    """An answer of the admin port."""

    status: int
    body: str
    headers: dict[str, str]


def get(port: int, path: str, method: str = "GET") -> Answer:
    """Return what the admin port answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return Answer(response.status, response.read().decode(), dict(response.headers))
    finally:
        connection.close()


def metrics(port: int) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return the value of each series by its name and labels, without buckets."""
    families = text_string_to_metric_families(get(port, "/metrics").body)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
        if "le" not in sample.labels
    }
