"""The manifests: right by Kubernetes' published schemas, and about the service that there is."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from starlette.testclient import TestClient

from service.api.open_inference.routes import PREFIX
from service.app import create_app
from service.metrics import METRICS
from service.settings import Settings
from tests.conftest import clear_environment

ROOT = Path(__file__).parents[3]
KUBERNETES = ROOT / "service" / "deploy" / "kubernetes"
KSERVE = ROOT / "service" / "deploy" / "kserve" / "inference-service.yaml"
MANIFESTS = sorted(path for path in KUBERNETES.glob("*/*.yaml") if path.name != "kustomization.yaml")
WITHOUT_SCHEMA = {"ServiceMonitor", "PrometheusRule"}  # the Prometheus operator's
READY, LIVE = {"/readyz", "/v2/health/ready"}, {"/livez", "/v2/health/live"}
PROBES = {"startup": READY, "readiness": READY, "liveness": LIVE}
OVERLAYS = {"cpu": "cpu", "gpu": "cuda"}
VERSION, LABELS = "1.37", {"app.kubernetes.io/name": "convoy"}
Document = dict[str, Any]


def read(path: Path) -> Document:
    document: Document = yaml.safe_load(path.read_text())
    return document


BASE = {document["kind"]: document for document in map(read, MANIFESTS)}
POD = BASE["Deployment"]["spec"]["template"]["spec"]
RUNTIME, INFERENCE_SERVICE = yaml.safe_load_all(KSERVE.read_text())
PREDICTOR = INFERENCE_SERVICE["spec"]["predictor"]
OF_A_POD = {"automountServiceAccountToken", "enableServiceLinks"}  # what else it has is KServe's own
RUN_BY_KSERVE = {name: PREDICTOR[name] for name in OF_A_POD} | {
    name: RUNTIME["spec"][name] for name in ("containers", "volumes")
}
PODS = {"kubernetes": POD, "kserve": RUN_BY_KSERVE}
both = pytest.mark.parametrize("pod", PODS.values(), ids=PODS)


def rendered(overlay: str) -> dict[str, Document]:
    """What `kubectl apply -k` would send, by kind."""
    if found := shutil.which("kustomize"):
        command = [found, "build"]
    elif found := shutil.which("kubectl"):
        command = [found, "kustomize"]
    else:
        pytest.skip("neither kustomize nor kubectl is installed")
    done = subprocess.run([*command, KUBERNETES / overlay], capture_output=True, text=True, check=True)
    return {document["kind"]: document for document in yaml.safe_load_all(done.stdout)}


def check(document: Document) -> None:
    if document["kind"] not in WITHOUT_SCHEMA:
        kubernetes_validate.validate(document, VERSION, strict=True)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_manifest_follows_its_schema(path: Path) -> None:
    check(read(path))


def test_a_misspelt_key_is_found() -> None:
    wrong = {**BASE["Deployment"], "spec": {**BASE["Deployment"]["spec"], "replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        check(wrong)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_renders_to_what_follows_the_schemas(overlay: str) -> None:
    documents = rendered(overlay)
    assert documents.keys() == BASE.keys() | {"HorizontalPodAutoscaler"}
    for document in documents.values():
        check(document)
    (container,) = documents["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"registry.example/convoy:{overlay}"
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    assert variables["CONVOY_DEVICE"] == OVERLAYS[overlay]
    assert variables.keys() > {variable["name"] for variable in POD["containers"][0]["env"]}
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (overlay == "gpu")


def test_kserves_runtime_and_model_make_a_pod_that_follows_the_schema() -> None:
    check({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "predictor"}, "spec": RUN_BY_KSERVE})
    assert PREDICTOR.keys() - OF_A_POD == {"minReplicas", "maxReplicas", "canaryTrafficPercent", "timeout", "model"}
    assert RUNTIME["spec"].keys() == {
        "annotations", "supportedModelFormats", "protocolVersions", "containers", "volumes"
    }  # fmt: skip


def test_kserves_model_is_one_for_its_runtime(settings: Settings) -> None:
    model, (supported,) = PREDICTOR["model"], RUNTIME["spec"]["supportedModelFormats"]
    assert model["runtime"] == RUNTIME["metadata"]["name"]
    assert model["modelFormat"].items() <= supported.items()
    assert [model["protocolVersion"]] == RUNTIME["spec"]["protocolVersions"] == [PREFIX.strip("/")]
    (variable,) = model["env"]  # clients ask for /v2/models/<the InferenceService's name>/infer
    assert variable == {"name": "CONVOY_DEFAULT_MODEL", "value": INFERENCE_SERVICE["metadata"]["name"]}
    annotations = RUNTIME["spec"]["annotations"]
    assert annotations["prometheus.kserve.io/port"] == str(
        RUNTIME["spec"]["containers"][0]["ports"][0]["containerPort"]
    )
    with TestClient(create_app(settings)) as client:
        assert client.get(annotations["prometheus.kserve.io/path"]).text.startswith("# HELP convoy_")


def test_the_keys_of_a_secret_are_where_the_service_looks_for_them() -> None:
    """The component, merged into the Deployment as kustomize merges it."""
    (patch,) = read(KUBERNETES / "keys" / "kustomization.yaml")["patches"]
    document = yaml.safe_load(patch["patch"])
    assert (document["kind"], document["metadata"]["name"]) == ("Deployment", BASE["Deployment"]["metadata"]["name"])
    added = document["spec"]["template"]["spec"]
    (container,), (ours,) = added["containers"], POD["containers"]
    assert container["name"] == ours["name"]
    merged = {**ours, **{name: [*ours[name], *container[name]] for name in ("env", "volumeMounts")}}
    spec = {**POD, "containers": [merged], "volumes": [*POD["volumes"], *added["volumes"]]}
    check({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "convoy"}, "spec": spec})
    (variable,), (mount,) = container["env"], container["volumeMounts"]
    assert variable["name"] == "CONVOY_API_KEYS_FILE"
    assert variable["value"].startswith(mount["mountPath"] + "/")
    assert POD["securityContext"]["fsGroup"] == 10001  # who may read the mounted file


def test_every_selector_finds_the_pods() -> None:
    assert BASE["Deployment"]["spec"]["template"]["metadata"]["labels"] == LABELS
    assert BASE["Service"]["spec"]["selector"] == LABELS
    for kind in ("Deployment", "PodDisruptionBudget"):
        assert BASE[kind]["spec"]["selector"] == {"matchLabels": LABELS}
    assert BASE["NetworkPolicy"]["spec"]["podSelector"] == {"matchLabels": LABELS}
    assert BASE["ServiceMonitor"]["spec"]["selector"] == {"matchLabels": BASE["Service"]["metadata"]["labels"]}
    for overlay in OVERLAYS:
        target = read(KUBERNETES / overlay / "autoscaler.yaml")["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) == ("Deployment", BASE["Deployment"]["metadata"]["name"])


@both
def test_probes_and_port_are_the_services(pod: Document, settings: Settings) -> None:
    (container,) = pod["containers"]
    (port,) = container["ports"]
    assert port["containerPort"] == Settings.model_fields["port"].default
    with TestClient(create_app(settings)) as client:
        for probe, paths in PROBES.items():
            if asked := container.get(f"{probe}Probe"):
                assert asked["httpGet"]["path"] in paths
                assert asked["httpGet"]["port"] in (port["name"], port["containerPort"])
                assert client.get(asked["httpGet"]["path"]).status_code == 200


def test_who_asks_for_the_port_by_name_gets_it(settings: Settings) -> None:
    (port,) = POD["containers"][0]["ports"]
    (offered,) = BASE["Service"]["spec"]["ports"]
    (scraped,) = BASE["ServiceMonitor"]["spec"]["endpoints"]
    (let_in,) = BASE["NetworkPolicy"]["spec"]["ingress"][0]["ports"]
    assert port["name"] == offered["name"] == offered["targetPort"] == scraped["port"] == let_in["port"]
    with TestClient(create_app(settings)) as client:
        assert client.get(scraped["path"]).text.startswith("# HELP convoy_")


def test_the_alerts_are_those_of_a_prometheus_without_kubernetes() -> None:
    assert BASE["PrometheusRule"]["spec"] == read(KUBERNETES.parent / "monitoring" / "alerts.yml")
    assert "prometheus-rule.yaml" in read(KUBERNETES / "core" / "kustomization.yaml")["resources"]


def test_the_alert_of_a_pod_that_is_down_names_what_the_operator_calls_its_job() -> None:
    """The Service's name, where the ServiceMonitor says nothing else."""
    (down,) = (each for each in BASE["PrometheusRule"]["spec"]["groups"][0]["rules"] if each["alert"] == "ConvoyDown")
    assert down["expr"] == f'up{{job="{BASE["Service"]["metadata"]["name"]}"}} == 0'
    assert "jobLabel" not in BASE["ServiceMonitor"]["spec"]


@both
def test_every_variable_is_a_setting_and_has_a_value_for_it(pod: Document, monkeypatch: pytest.MonkeyPatch) -> None:
    clear_environment(monkeypatch)
    for variable in pod["containers"][0]["env"]:
        name = variable["name"].removeprefix("CONVOY_").lower()
        assert name in Settings.model_fields
        Settings.model_validate({name: variable["value"]})


@both
def test_kubernetes_sets_no_variables_that_look_like_settings(pod: Document) -> None:
    """For a Service called convoy it would set CONVOY_PORT=tcp://…, which is no port to listen on."""
    assert pod["enableServiceLinks"] is False


def test_a_pod_has_the_time_to_stop() -> None:
    (container,) = POD["containers"]
    variables = {variable["name"]: int(variable["value"]) for variable in container["env"]}
    lame_duck_s, drain_s = (variables[f"CONVOY_{name}_MS"] / 1000 for name in ("LAME_DUCK", "DRAIN_TIMEOUT"))
    kill_s = 5  # what the supervisor waits beyond that before it kills a worker
    stop_s = container["lifecycle"]["preStop"]["sleep"]["seconds"] + lame_duck_s + drain_s + kill_s
    assert POD["terminationGracePeriodSeconds"] > stop_s


@both
def test_a_pod_may_do_nothing_that_it_need_not(pod: Document) -> None:
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    context = pod.get("securityContext", {}) | container["securityContext"]
    context.pop("fsGroup", None)
    assert context.pop("seccompProfile", None) == (POD["securityContext"]["seccompProfile"] if pod is POD else None)
    assert context == {
        "runAsNonRoot": True, "readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert "USER 10001:10001" in dockerfile  # a number, or Kubernetes could not tell that it is not root
    (mount,) = container["volumeMounts"]
    assert f"CONVOY_JOBS_DIR={mount['mountPath']}" in dockerfile


@both
def test_batches_are_deleted_by_the_service_before_their_volume_is_full(pod: Document) -> None:
    """Kubernetes would delete the pod. Unpacking may take as much again before it is seen, beside the upload itself."""
    (container,), (volume,) = pod["containers"], pod["volumes"]
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    most = Settings.model_validate({"jobs_max_bytes": variables["CONVOY_JOBS_MAX_BYTES"]}).jobs_max_bytes
    limit = int(volume["emptyDir"]["sizeLimit"].removesuffix("Gi")) << 30
    assert 2 * most + Settings.model_fields["max_batch_upload_bytes"].default <= limit


def test_kserve_waits_for_an_answer_longer_than_the_service_works_on_it() -> None:
    variables = {variable["name"]: variable["value"] for variable in RUNTIME["spec"]["containers"][0]["env"]}
    assert PREDICTOR["timeout"] > int(variables["CONVOY_REQUEST_TIMEOUT_MS"]) / 1000


def test_the_gpus_autoscaler_asks_for_a_metric_that_there_is() -> None:
    (metric,) = read(KUBERNETES / "gpu" / "autoscaler.yaml")["spec"]["metrics"]
    asked = metric["pods"]["metric"]
    assert METRICS[asked["name"]].kind == "gauge"
    assert asked["selector"]["matchLabels"] == {"model": Settings.model_fields["default_model"].default}
    assert set(asked["selector"]["matchLabels"]) <= set(METRICS[asked["name"]].labels)
