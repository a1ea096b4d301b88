"""Hooks that say in the log that they were called."""

from __future__ import annotations

from typing import Any


def post_worker_init(worker: Any) -> None:
    worker.log.info("hook post_worker_init %s", worker.pid)


def worker_int(worker: Any) -> None:
    worker.log.info("hook worker_int %s", worker.pid)


def worker_abort(worker: Any) -> None:
    worker.log.info("hook worker_abort %s", worker.pid)


def worker_exit(server: Any, worker: Any) -> None:
    worker.log.info("hook worker_exit %s", worker.pid)
