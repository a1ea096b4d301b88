"""The alert rules and the dashboard of the documentation, checked by Prometheus' own programs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers import eventually, free_port
from tests.server.admin.test_prometheus import PROMETHEUS, Prometheus

DOCS = Path(__file__).parents[3] / "docs"
ALERTS = DOCS / "monitoring/gtcp-alerts.yml"
DASHBOARD = DOCS / "monitoring/gtcp-dashboard.json"

#: Series that make each alert fire, and what it says then.
CASES = """
rule_files: [{rules}]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - series: 'rpc_server_call_duration_seconds_count{{job="gtcp",rpc_method="pay"}}'
        values: "0+80x30"
      - series: 'rpc_server_call_duration_seconds_count{{job="gtcp",rpc_method="pay",error_type="500"}}'
        values: "0+20x30"
      - series: 'rpc_server_call_duration_seconds_count{{job="gtcp",rpc_method="buy",error_type="1000"}}'
        values: "0+20x30"
      - series: 'rpc_server_call_duration_seconds_bucket{{job="gtcp",rpc_method="pay",le="1"}}'
        values: "0+10x30"
      - series: 'rpc_server_call_duration_seconds_bucket{{job="gtcp",rpc_method="pay",le="2.5"}}'
        values: "0+20x30"
      - series: 'rpc_server_call_duration_seconds_bucket{{job="gtcp",rpc_method="pay",le="+Inf"}}'
        values: "0+20x30"
      - series: 'gtcp_rejections_total{{job="gtcp",limit="queue"}}'
        values: "0+120x30"
      - series: 'gtcp_rejections_total{{job="gtcp",limit="drain"}}'
        values: "0+120x30"
      - series: 'gtcp_loop_blocked_seconds_total{{job="gtcp",instance="a",rpc_method="pay"}}'
        values: "0+6x30"
      - series: 'up{{job="gtcp",instance="a"}}'
        values: "0x30"
    alert_rule_test:
      - {{eval_time: 20m, alertname: GtcpErrors, exp_alerts: [{{exp_labels: {{severity: page, job: gtcp, rpc_method: pay}}, exp_annotations: {{summary: "20% of the calls of pay fail"}}}}]}}
      - {{eval_time: 20m, alertname: GtcpSlow, exp_alerts: [{{exp_labels: {{severity: ticket, job: gtcp, rpc_method: pay}}, exp_annotations: {{summary: "1 % of the calls of pay take longer than 2.5 s"}}}}]}}
      - {{eval_time: 20m, alertname: GtcpOverloaded, exp_alerts: [{{exp_labels: {{severity: page, job: gtcp, limit: queue}}, exp_annotations: {{summary: "2 requests a second are refused by the limit queue"}}}}]}}
      - {{eval_time: 20m, alertname: GtcpLoopBlocked, exp_alerts: [{{exp_labels: {{severity: ticket, job: gtcp, instance: a, rpc_method: pay}}, exp_annotations: {{summary: "pay blocks the event loop 10% of the time"}}}}]}}
      - {{eval_time: 20m, alertname: GtcpDown, exp_alerts: [{{exp_labels: {{severity: page, job: gtcp, instance: a}}, exp_annotations: {{summary: "a does not answer on its admin port"}}}}]}}
"""  # noqa: E501


def queries() -> list[str]:
    """Return the queries of the dashboard and of the page about monitoring."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    found = [target["expr"] for panel in panels for target in panel["targets"]]
    page = (DOCS / "how-to/monitoring.md").read_text()
    found += re.findall(r"^\| [^|]+ \| `([^`]*\[[15]m\][^`]*)` \|$", page, re.MULTILINE)
    assert len(found) > 15
    return [each.replace("$__rate_interval", "1m").replace("$job", "gtcp") for each in found]


@pytest.mark.programs
def test_each_alert_fires(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    cases = tmp_path / "cases.yml"
    cases.write_text(CASES.format(rules=ALERTS))
    for command in (("check", ALERTS), ("test", cases)):
        ended = subprocess.run(
            [promtool, command[0], "rules", command[1]], capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.programs
@pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed")
def test_each_query_is_one(tmp_path: Path) -> None:
    prometheus = Prometheus(tmp_path, free_port())
    try:
        eventually(lambda: prometheus.ask("up") == [0.0])
        for query in queries():
            assert prometheus.ask(f"count({query}) or vector(7)") == [7.0], query
    finally:
        prometheus.end()


def test_the_metrics_are_documented() -> None:
    page = (DOCS / "how-to/monitoring.md").read_text()
    used = set(re.findall(r"\b(?:gtcp|rpc)_[a-z_]+", ALERTS.read_text() + " ".join(queries())))
    names = {re.sub(r"_(bucket|count)$", "", each) for each in used if not each.endswith("method")}
    assert {each for each in names if f"`{each}`" not in page} == set()
