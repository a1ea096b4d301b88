"""The Dockerfile and the Kubernetes manifest of the documentation: what they run, run here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import gtcp
from tests.cli.processes import APP, served
from tests.doc_blocks import parse
from tests.helpers import PATIENCE, free_port

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "docker-and-kubernetes.md"


def block(language: str) -> str:
    (found,) = [each.text for each in parse(PAGE.read_text("utf-8")) if each.language == language]
    return found


def instruction(name: str) -> list[str]:
    """Return the command of an instruction of the Dockerfile, which is in its exec form."""
    (found,) = re.findall(rf"^{name}.*?(\[.*\])$", block("dockerfile"), re.MULTILINE)
    command: list[str] = json.loads(found)
    return command


def containers() -> list[Any]:
    yaml = pytest.importorskip("yaml")
    deployment = next(
        each for each in yaml.safe_load_all(block("yaml")) if each["kind"] == "Deployment"
    )
    found: list[Any] = deployment["spec"]["template"]["spec"]["containers"]
    return found


class Container(NamedTuple):
    """What the Dockerfile's command runs, on free ports.

    Attributes:
        ports: the free ports in place of those of the documentation.
        secret: the file of its secret.
    """

    ports: dict[str, str]
    secret: Path

    def adapt(self, text: str) -> str:
        return re.sub("|".join(self.ports), lambda match: self.ports[match[0]], text)


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    command = instruction("CMD")
    assert command[:3] == ["gtcp", "serve", "app:server"]
    (tmp_path / "app.py").write_text(APP)
    secret = tmp_path / "secret"
    secret.write_text("shop.1:" + "s" * 32)
    secret.chmod(0o600)
    ports = {"8889": str(free_port()), "9889": str(free_port())}
    one = Container(ports, secret)
    flags = [one.adapt(flag) for flag in command[3:]]
    with served(tmp_path, "app:server", *flags, env={"GTCP_SECRET_FILE": str(secret)}):
        yield one


def health_check(container: Container, secret: str) -> int:
    """Run the health check in the container's environment; return its status."""
    command = [container.adapt(each) for each in instruction("HEALTHCHECK")]
    assert command[0] == "gtcp"
    return subprocess.run(
        [sys.executable, "-m", "gtcp", *command[1:]],
        env={"GTCP_SECRET_FILE": secret},
        timeout=PATIENCE,
    ).returncode


def test_the_image_s_health_check_passes(container: Container, tmp_path: Path) -> None:
    assert health_check(container, str(container.secret)) == 0
    (tmp_path / "other").write_text("shop.2:" + "t" * 32)
    assert health_check(container, str(tmp_path / "other")) != 0


def test_the_manifests_fit_the_schemas_of_kubernetes() -> None:
    yaml = pytest.importorskip("yaml")
    validate = pytest.importorskip("kubernetes_validate")
    manifests = list(yaml.safe_load_all(block("yaml")))
    kinds = [each["kind"] for each in manifests]
    assert kinds == ["Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler"]
    for each in manifests:
        validate.validate(each, validate.latest_version(), strict=True)
    wrong = {**manifests[1], "spec": {"ports": "8889"}}
    with pytest.raises(validate.ValidationError):
        validate.validate(wrong, validate.latest_version(), strict=True)


@pytest.mark.parametrize("name", ["livenessProbe", "readinessProbe"])
def test_a_probe_passes(name: str, container: Container) -> None:
    (manifest,) = containers()
    probe = manifest[name]["httpGet"]
    assert {"containerPort": probe["port"]} in manifest["ports"]
    url = f"http://127.0.0.1:{container.adapt(str(probe['port']))}{probe['path']}"
    with urllib.request.urlopen(url, timeout=PATIENCE) as response:
        assert response.status == 200


def test_the_variables_are_those_of_settings_and_of_the_volume() -> None:
    (manifest,) = containers()
    variables = {each["name"]: each["value"] for each in manifest["env"]}
    (mount,) = manifest["volumeMounts"]
    assert variables["GTCP_SECRET_FILE"].startswith(mount["mountPath"] + "/")
    assert gtcp.Settings.load(env=variables).drain_delay == 5
