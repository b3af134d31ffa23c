"""Alerts and dashboard speak of metrics that exist, by labels that they have, in Prometheus' own grammar."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml
from starlette.testclient import TestClient

from service import errors
from service.app import create_app
from service.metrics import METRICS
from service.rpc.methods import SERVICE
from service.settings import Settings

ROOT = Path(__file__).parents[3]
MONITORING = ROOT / "service" / "deploy" / "monitoring"
FROM_PROMETHEUS = {"job", "instance"}


def labels() -> dict[str, set[str]]:
    """Every metric as it can be asked for → the labels it has."""
    found = {"up": FROM_PROMETHEUS}
    for name, family in METRICS.items():
        own = {*family.labels, *FROM_PROMETHEUS}
        if family.kind == "histogram":
            found |= {f"{name}_bucket": {"le", *own}, f"{name}_sum": own, f"{name}_count": own}
        else:
            found[name] = own
    return found


LABELS = labels()


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((MONITORING / "grafana" / "dashboards" / "convoy.json").read_text())
    return read


def expressions() -> Iterator[tuple[str, str]]:
    for rule in alerts():
        yield rule["alert"], rule["expr"]
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "1m")  # Grafana fills it in


def nodes(expression: str) -> list[Any]:
    found: list[Any] = []
    promql.walk(promql.parse(expression), found.append)
    return found


def metrics_in(expression: str) -> set[str]:
    return {node.name or "" for node in nodes(expression) if isinstance(node, promql.VectorSelector)}


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_every_expression_asks_for_what_there_is(where: str, expression: str) -> None:
    assert metrics_in(expression) <= LABELS.keys(), where
    there = set.intersection(*(LABELS[name] for name in metrics_in(expression)))
    for node in nodes(expression):
        if isinstance(node, promql.VectorSelector):
            assert {matcher.name for matcher in node.matchers.matchers} <= LABELS[node.name or ""], where
        if isinstance(node, promql.AggregateExpr) and node.modifier:
            assert set(node.modifier.labels) <= there, where


def test_the_dashboard_shows_every_metric() -> None:
    shown = {name for panel in dashboard()["panels"] for target in panel["targets"]
             for name in metrics_in(target["expr"].replace("$__rate_interval", "1m"))}  # fmt: skip
    families = {family for family in METRICS if {family, f"{family}_sum", f"{family}_bucket"} & shown}
    assert families == METRICS.keys()


def test_every_metric_is_on_the_page_and_no_other(settings: Settings) -> None:
    with TestClient(create_app(settings)) as client:
        page = client.get("/metrics").text
    assert page.count("# TYPE ") == len(METRICS)
    assert all(f"# TYPE {family} " in page for family in METRICS)


def test_statuses_of_the_alerts_are_those_of_the_errors() -> None:
    known = {
        str(int(kind.status))
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.ServiceError)
    }
    for _, expression in expressions():
        for node in nodes(expression):
            if isinstance(node, promql.VectorSelector):
                asked = [matcher.value for matcher in node.matchers.matchers if matcher.name == "status"]
                numbers = {number for value in asked for number in value.split("|") if number.isdigit()}
                assert numbers <= known


def test_no_panel_covers_another() -> None:
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in dashboard()["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_every_alert_says_what_to_do() -> None:
    for rule in alerts():
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}


@pytest.mark.parametrize(("title", "expression"), [each for each in expressions() if "route" in each[1]])
def test_a_prediction_counts_whichever_protocol_asked_for_it(title: str, expression: str, settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"grpc_port": 0}))
    assert app.rpc
    posted = {path for path, ways in app.openapi()["paths"].items() if "post" in ways}
    posted |= {f"/{SERVICE}/{name}" for name in app.rpc._methods.all()}
    predicting = {path for path in posted if path.endswith(("/predict", "/infer", "/ModelInfer"))}
    assert len(predicting) == 4
    for asked in re.findall(r'route=~"(.+?)"', expression):
        assert {path for path in posted if re.fullmatch(asked, path)} == predicting, title


def test_prometheus_asks_the_service_where_compose_puts_it() -> None:
    settings = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    (scrape,) = settings["scrape_configs"]
    host, _, port = scrape["static_configs"][0]["targets"][0].partition(":")
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    for name in ("cpu", "gpu"):
        assert host in compose["services"][name]["networks"]["default"]["aliases"]
    assert int(port) == Settings.model_fields["port"].default
    assert scrape.get("metrics_path", "/metrics") == "/metrics"
    assert scrape["job_name"] == "convoy"  # which ConvoyDown names
    assert all((MONITORING / name).is_file() for name in settings["rule_files"])


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    provisioning = MONITORING / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert {panel["datasource"]["uid"] for panel in dashboard()["panels"]} == {source["uid"]}
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "convoy.yml").read_text())["providers"]
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    mounted = [volume.split(":") for volume in compose["services"]["grafana"]["volumes"]]
    assert ["./service/deploy/monitoring/grafana/dashboards", provider["options"]["path"], "ro"] in mounted
    assert source["url"] == "http://prometheus:9090"
