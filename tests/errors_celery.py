"""A Celery application whose tasks raise errors; its queue and results are files."""

from __future__ import annotations

import os

from celery import Celery

from tests.errors_made import raise_error

FOLDER = os.environ["GTCP_TEST_FOLDER"]

app = Celery("errors", broker="filesystem://", backend=f"file://{FOLDER}/results")
app.conf.update(
    broker_transport_options={
        "data_folder_in": f"{FOLDER}/queue",
        "data_folder_out": f"{FOLDER}/queue",
        "control_folder": f"{FOLDER}/control",
    },
    task_serializer="json",
    result_serializer="json",
    accept_content=["json"],
)
app.task(name="raise_error")(raise_error)
