"""The chart by the tools that will read it: helm, the schemas of several Kubernetes, those of the custom resources,
kustomize, and Prometheus. `make test-chart` brings them.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from inlay.config_sources import load_settings

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "inlay"
TOOLS = ROOT / "build" / "kubernetes"
VERSIONS = ("1.30", "1.33", "1.37")
CUSTOM = ("ScaledObject", "ServiceMonitor", "PrometheusRule")
pytestmark = pytest.mark.skipif(not (TOOLS / "helm").exists(), reason="needs the tools of make test-chart")

CASES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "disk and keys": {"cache": {"disk": {"size": "50Gi", "storageClass": "local"}}, "keys": {"existingSecret": "keys"}},
    "gpu": {"gpu": {"count": 1}, "runtimeClassName": "nvidia", "modelVolume": {"existingClaim": "models"}},
    "hpa": {"autoscaling": {"kind": "hpa"}},
    "keda": {"autoscaling": {"kind": "keda"}, "serviceMonitor": {"enabled": True, "labels": {"release": "x"}}},
    "rules": {"prometheusRule": {"enabled": True}, "podDisruptionBudget": {"maxUnavailable": "50%"}},
    "ingress": {"ingress": {"enabled": True, "host": "a.example", "tlsSecret": "tls", "className": "nginx"}},
    "guarded": {
        "networkPolicy": {"from": [{"podSelector": {"matchLabels": {"app": "search"}}}]},
        "image": {"digest": "sha256:" + "a" * 64},
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "env": [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}],
        "podAnnotations": {"a": "b"},
        "podLabels": {"c": "d"},
        "cache": {"redis": "redis://redis:6379/0?ttl=7d"},
    },
}


def helm(*arguments: str, values: Mapping[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
    command = [str(TOOLS / "helm"), *arguments, "-f", "-"]
    return subprocess.run(command, input=json.dumps(values or {}), capture_output=True, text=True)


def rendered(values: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    done = helm("template", "x", str(CHART), values=values)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def one(documents: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [document for document in documents if document["kind"] == kind]
    return found


def container_of(workload: dict[str, Any]) -> dict[str, Any]:
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    found: dict[str, Any] = container
    return found


@pytest.mark.parametrize("name", CASES)
def test_helm_finds_nothing_to_complain_of(name: str) -> None:
    done = helm("lint", "--strict", str(CHART), values=CASES[name])
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", CASES)
def test_every_kubernetes_takes_all_of_it(name: str, tmp_path: Path) -> None:
    plain = [document for document in rendered(CASES[name]) if document["kind"] not in CUSTOM]
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(plain))
    for version in VERSIONS:
        command = [str(TOOLS / "venv/bin/kubernetes-validate"), "--strict", "-k", version, str(tmp_path / "all.yaml")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_misspelt_field_would_be_seen(tmp_path: Path) -> None:
    workload = one(rendered(), "Deployment")
    container_of(workload)["readynessProbe"] = container_of(workload).pop("readinessProbe")
    (tmp_path / "all.yaml").write_text(yaml.safe_dump(workload))
    command = [str(TOOLS / "venv/bin/kubernetes-validate"), "--strict", "-k", VERSIONS[0], str(tmp_path / "all.yaml")]
    assert subprocess.run(command, capture_output=True).returncode != 0


def test_custom_resources_are_read_as_they_are_written() -> None:
    found = [document for name in ("keda", "rules") for document in rendered(CASES[name])]
    custom = [document for document in found if document["kind"] in CUSTOM]
    assert {document["kind"] for document in custom} == set(CUSTOM)
    assert lost_of(custom) == ""
    one(custom, "ScaledObject")["spec"]["pollingIntervall"] = 15
    assert "ScaledObject.spec.pollingIntervall" in lost_of(custom)


def lost_of(documents: list[dict[str, Any]]) -> str:
    script = Path(__file__).with_name("custom_resources.py")
    command = [str(TOOLS / "venv/bin/python"), str(script)]
    done = subprocess.run(command, input=json.dumps(documents), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"replicas": 0}, "replicas"),
        ({"replica": 3}, "replica"),
        ({"models": []}, "models"),
        ({"autoscaling": {"kind": "vpa"}}, "autoscaling"),
        ({"cache": {"redis": "redis:6379"}}, "redis"),
        ({"cache": {"disk": {"size": "50 GB"}}}, "size"),
        ({"image": {"digest": "abc"}}, "digest"),
        ({"ingress": {"enabled": True}}, "ingress.host is needed"),
    ],
)
def test_wrong_values_are_refused_with_their_names(values: dict[str, Any], told: str) -> None:
    done = helm("template", "x", str(CHART), values=values)
    assert done.returncode != 0
    assert told in done.stderr


@pytest.mark.parametrize("name", CASES)
def test_the_server_takes_the_arguments(name: str) -> None:
    workload = next(found for found in rendered(CASES[name]) if found["kind"] in ("Deployment", "StatefulSet"))
    arguments = container_of(workload)["args"]
    assert arguments[0] == "serve"
    flags = [argument for argument in arguments if argument.startswith("--")]
    for flag in flags:
        value = arguments[arguments.index(flag) + 1]
        load_settings({flag[2:].replace("-", "_"): [value] if flag == "--cache" else value}, {})


def test_the_time_to_end_is_enough_for_all_of_it() -> None:
    spec = one(rendered({"shutdownDelay": 5, "shutdownTimeout": 60}), "Deployment")["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] == 75
    readiness = spec["containers"][0]["readinessProbe"]
    defaults = one(rendered(), "Deployment")
    delay = int(container_of(defaults)["args"][container_of(defaults)["args"].index("--shutdown-delay") + 1])
    assert readiness["periodSeconds"] * readiness["failureThreshold"] < delay


def test_a_disk_makes_it_a_stateful_set_with_a_claim_each() -> None:
    workload = one(rendered(CASES["disk and keys"]), "StatefulSet")
    (claim,) = workload["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "50Gi"
    assert "disk:///cache" in container_of(workload)["args"]
    assert {"name": "cache", "mountPath": "/cache"} in container_of(workload)["volumeMounts"]


@pytest.mark.parametrize("kind", ["hpa", "keda"])
def test_an_autoscaler_alone_says_how_many_there_are(kind: str) -> None:
    assert "replicas" not in one(rendered({"autoscaling": {"kind": kind}}), "Deployment")["spec"]


def test_a_gpu_is_asked_for_and_its_taint_borne() -> None:
    workload = one(rendered(CASES["gpu"]), "Deployment")
    for bound in container_of(workload)["resources"].values():
        assert bound["nvidia.com/gpu"] == 1
    assert workload["spec"]["template"]["spec"]["tolerations"][0]["key"] == "nvidia.com/gpu"


def test_the_rules_are_those_that_are_tested() -> None:
    rules = one(rendered(CASES["rules"]), "PrometheusRule")
    assert rules["spec"] == yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text())


def test_the_manifests_for_kustomize_are_what_the_chart_gives() -> None:
    folder = ROOT / "deploy" / "kubernetes"
    built = subprocess.run([str(TOOLS / "kubectl"), "kustomize", str(folder)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    documents = [document for document in yaml.safe_load_all(built.stdout) if document]
    done = helm("template", "inlay", str(CHART), "--no-hooks")
    expected = [document for document in yaml.safe_load_all(done.stdout) if document]
    by_kind = {document["kind"]: document for document in documents}
    for document in expected:
        assert strip(by_kind[document["kind"]]) == strip(document), "run make manifests"
    assert len(documents) == len(expected)


def strip(document: dict[str, Any]) -> dict[str, Any]:
    """Without what kustomize leaves out or what Helm says of itself."""
    document["metadata"].pop("namespace", None)
    for label in ("helm.sh/chart", "app.kubernetes.io/managed-by"):
        document["metadata"]["labels"].pop(label, None)
    return document
