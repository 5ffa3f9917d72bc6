"""The dashboard and the alerts, on a live Prometheus that scrapes a live server."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers import RunningServer

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "inlay.json").read_text())
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
PANELS = {
    f"{panel['title']} {target['refId']}": target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", ())
}
VARIABLES = {"$__rate_interval": "10s", "$job": ".*", "$instance": ".*", "$model": ".*"}
KUBERNETES = {"namespace": "default", "service": "x-inlay"}  # as a ServiceMonitor's series have them
SCALING = DEPLOY / "helm" / "inlay" / "templates" / "autoscaling.yaml"
THRESHOLD = re.compile(r"\s(==|>|<)\s[\d.]+$")

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="needs prometheus and promtool",
)
pytestmark = needs_prometheus

Query = Callable[[str], list[Any]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def use(server: RunningServer) -> None:
    """What puts a number into every panel."""
    server.post({"input": [f"text {i}" for i in range(20)], "priority": "low"})
    server.post({"input": ["text 1"]})
    server.post({"input": [f"new {time.time()}"]})
    server.post({"input": ""})


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its URL, when it has seen a server at work for a while."""
    folder = tmp_path_factory.mktemp("prometheus")
    port = free_port()
    with RunningServer("demo", "--isolation", "process", "--jobs", str(folder / "jobs")) as server:
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(ALERTS)],
            "scrape_configs": [
                {
                    "job_name": "inlay",
                    "static_configs": [{"targets": [server.url.removeprefix("http://")], "labels": KUBERNETES}],
                }
            ],
        }
        (folder / "prometheus.json").write_text(json.dumps(config))
        command = ["prometheus", f"--config.file={folder}/prometheus.json", f"--storage.tsdb.path={folder}/data"]
        process = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(300):
                use(server)
                if scrapes(url) >= 5:
                    break
                time.sleep(0.2)
            yield url
        finally:
            process.kill()
            process.wait()


def scrapes(url: str) -> float:
    try:
        found = query_of(url)('count_over_time(up{job="inlay"}[1m])')
    except httpx.TransportError:
        return 0.0
    return float(found[0]["value"][1]) if found else 0.0


def query_of(url: str) -> Query:
    def query(expression: str) -> list[Any]:
        reply = httpx.get(f"{url}/api/v1/query", params={"query": expression})
        body = reply.json()
        assert body["status"] == "success", f"{expression}: {body}"
        found: list[Any] = body["data"]["result"]
        return found

    return query


def filled(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, f"a variable is not known here: {expression}"
    return expression


@pytest.mark.parametrize("panel", PANELS)
def test_every_panel_has_data(prometheus: str, panel: str) -> None:
    assert query_of(prometheus)(filled(PANELS[panel])), f"{PANELS[panel]} gives nothing"


def test_a_misspelt_metric_would_be_noticed(prometheus: str) -> None:
    expression = PANELS["Requests A"]
    assert not query_of(prometheus)(filled(expression.replace("inlay_requests_total", "inlay_request_total")))


def test_the_autoscaler_gets_one_number_whatever_there_is(prometheus: str) -> None:
    labels = ",".join(f'{name}="{value}"' for name, value in KUBERNETES.items())
    queries = re.findall(r"query: >-\n(.*?)\n +threshold:", SCALING.read_text(), re.DOTALL)
    assert len(queries) == 2
    for found in queries:
        query = " ".join(found.split()).replace("{{ $labels }}", f"{{{labels}}}")
        assert "{{" not in query
        (element,) = query_of(prometheus)(query)
        assert float(element["value"][1]) >= 0
        assert not query_of(prometheus)(query.replace("x-inlay", "another")), "who is not scraped is not idle"


def test_every_alert_looks_at_something_that_is_there(prometheus: str) -> None:
    groups = httpx.get(f"{prometheus}/api/v1/rules").json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == ALERTS.read_text().count("- alert:")
    for rule in rules:
        assert rule["health"] == "ok", rule
        expression, number = THRESHOLD.subn("", rule["query"])
        assert number == 1, f"{rule['query']} has no threshold"
        assert query_of(prometheus)(expression), f"{rule['name']}: {expression} gives nothing"
        assert rule["annotations"].keys() == {"summary", "action"}


def test_variables_of_the_dashboard_have_values(prometheus: str) -> None:
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            series, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]
            found = query_of(prometheus)(filled(series))
            assert all(one["metric"][label] for one in found)
            assert found


def test_alerts_fire_for_what_they_are_meant_for_and_nothing_less(tmp_path: Path) -> None:
    cases = (Path(__file__).parent / "alerts_test.yaml").read_text().replace("ALERTS", str(ALERTS))
    (tmp_path / "cases.yaml").write_text(cases)
    done = subprocess.run(["promtool", "test", "rules", "cases.yaml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(cases.count(name) == 2 for name in re.findall(r"- alert: (\w+)", ALERTS.read_text()))


def test_prometheus_takes_the_config_that_compose_gives_it() -> None:
    done = subprocess.run(
        ["promtool", "check", "config", str(DEPLOY / "prometheus" / "prometheus.yaml")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
