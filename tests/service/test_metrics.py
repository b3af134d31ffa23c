"""Numbers → Prometheus' text format, read back with Prometheus' own parser."""

from __future__ import annotations

import mmap

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.counters import STRIP_BYTES, Counters
from service.errors import InvalidImage
from service.metrics import METRICS, Metrics, ModelMetrics
from service.observer import BatchReport
from service.prediction import ModelIdentity, Prediction


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What a Prometheus server would store: name and labels → value."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def prediction(*probabilities: float) -> Prediction:
    row = np.array(probabilities, np.float32)
    return Prediction(ModelIdentity("m", "1", "sha256:0", ("cat", "dog")), row, int(row.argmax()))


def test_every_family_is_announced_before_anything_happened() -> None:
    families = {f.name: f for f in text_string_to_metric_families(Metrics(Counters.alone()).render().decode())}
    assert set(families) == {name.removesuffix("_total") for name in METRICS}
    assert all(family.documentation for family in families.values())


def test_a_counter_is_exact_over_processes() -> None:
    memory = mmap.mmap(-1, 2 * STRIP_BYTES)
    first, second = Metrics(Counters(memory, 0)), Metrics(Counters(memory, 1))
    for metrics in (first, second, second):
        metrics.cell("convoy_batch_closed_total", "full").add()
    assert samples(first)["convoy_batch_closed_total", (("reason", "full"),)] == 3


def test_a_histogram_is_cumulative_with_sum_and_count() -> None:
    metrics = Metrics(Counters.alone())
    for size in (1, 3, 4, 5000):
        metrics.histogram("convoy_batch_size", "m").observe(size)
    found = samples(metrics)

    def bucket(le: str) -> float:
        return found["convoy_batch_size_bucket", (("le", le), ("model", "m"))]

    assert [bucket(le) for le in ("1", "2", "4", "1024", "+Inf")] == [1, 1, 3, 3, 4]
    assert found["convoy_batch_size_sum", (("model", "m"),)] == 5008
    assert found["convoy_batch_size_count", (("model", "m"),)] == 4


def test_what_is_looked_up_is_shown_as_one_of_its_family_however_many_processes_there_are() -> None:
    memory = mmap.mmap(-1, 2 * STRIP_BYTES)
    first, _ = (Metrics(Counters(memory, strip)) for strip in (0, 1))
    page = first.render({("convoy_batches", "failed"): 3}).decode()
    (family,) = (f for f in text_string_to_metric_families(page) if f.name == "convoy_batches")
    assert family.type == "gauge"
    assert [(sample.labels, sample.value) for sample in family.samples] == [({"status": "failed"}, 3)]


def test_long_names_of_classes_are_cut_and_very_many_classes_are_one() -> None:
    metrics = Metrics(Counters.alone())
    name = "n" * 63
    ModelMetrics(metrics, name, "1", ("é" * 100, '"' * 200, "dog"))
    ModelMetrics(metrics, "many", "1", [f"class {number}" for number in range(20_000)])
    shown = {labels for family, labels in samples(metrics) if family == "convoy_predictions_total"}
    assert shown == {
        (("label", "é" * 32 + "…"), ("model", name)),
        (("label", '"' * 64 + "…"), ("model", name)),
        (("label", "dog"), ("model", name)),
        (("label", "…"), ("model", "many")),
    }


def test_histograms_whose_labels_begin_alike_are_kept_apart() -> None:
    metrics = Metrics(Counters.alone())
    metrics.histogram("convoy_stage_seconds", "queue").observe(1)
    metrics.histogram("convoy_stage_seconds", "queued").observe(2)
    assert samples(metrics)["convoy_stage_seconds_count", (("stage", "queue"),)] == 1


def test_an_info_is_one_however_many_processes_say_so_and_gone_when_none_does() -> None:
    memory = mmap.mmap(-1, 2 * STRIP_BYTES)
    both = [Metrics(Counters(memory, strip)) for strip in (0, 1)]
    labels = ("m", "1", "sha256:0", "CPUExecutionProvider", "fp32")
    for metrics in both:
        metrics.cell("convoy_model_info", *labels).set(1)
    assert [v for (name, _), v in samples(both[0]).items() if name == "convoy_model_info"] == [1]
    for metrics in both:
        metrics.cell("convoy_model_info", *labels).set(0)
    assert not [v for (name, _), v in samples(both[0]).items() if name == "convoy_model_info"]


@pytest.mark.parametrize("label", ['say "cat"', "back\\slash", "two\nlines", "Käse"])
def test_any_label_comes_back_as_it_was(label: str) -> None:
    metrics = Metrics(Counters.alone())
    metrics.cell("convoy_predictions_total", "m", label).add()
    assert samples(metrics)["convoy_predictions_total", (("label", label), ("model", "m"))] == 1


def test_sums_come_with_the_values_of_their_labels() -> None:
    memory = mmap.mmap(-1, 2 * STRIP_BYTES)
    first, second = Metrics(Counters(memory, 0)), Metrics(Counters(memory, 1))
    for metrics in (first, second):
        for label in ("cat", 'say ",label="\\n', "two\nlines"):
            metrics.cell("convoy_predictions_total", "m", label).add()
    first.cell("convoy_requests_total", "m", "POST", "200").add()
    assert second.totals("convoy_predictions_total") == {
        ("m", "cat"): 2, ("m", 'say ",label="\\n'): 2, ("m", "two\nlines"): 2,
    }  # fmt: skip
    assert second.total("convoy_predictions_total", "m") == 6
    assert second.total("convoy_predictions_total", "m", "cat") == 2


def test_the_number_of_labels_is_checked() -> None:
    with pytest.raises(ValueError, match="zip"):
        Metrics(Counters.alone()).cell("convoy_requests_total", "/v1/predict")


def test_a_model_counts_its_answers_its_failures_and_its_batches() -> None:
    metrics = Metrics(Counters.alone())
    model = ModelMetrics(metrics, "m", "1", ("cat", "dog"))
    bad = InvalidImage("Send an image.")
    model.classified([prediction(0.1, 0.9), prediction(0.25, 0.75), bad, prediction(0.5, 0.5)])
    model.failed("overloaded", 7)
    model.queued(5)
    model.ran(BatchReport("idle", 3, (0.25, 0.5), 0.125))
    found = samples(metrics)
    images = {key[1][1][1]: value for key, value in found.items() if key[0] == "convoy_images_total"}
    assert images == {"predicted": 3, "invalid-image": 1, "overloaded": 7}
    assert found["convoy_predictions_total", (("label", "dog"), ("model", "m"))] == 2
    assert found["convoy_prediction_probability_count", (("model", "m"),)] == 3
    assert found["convoy_prediction_probability_sum", (("model", "m"),)] == pytest.approx(2.15)
    assert found["convoy_queue_images", (("model", "m"),)] == 5
    assert found["convoy_batch_size_sum", (("model", "m"),)] == 3
    assert found["convoy_stage_seconds_sum", (("stage", "queue"),)] == 0.75
    assert found["convoy_stage_seconds_sum", (("stage", "infer"),)] == 0.25
    assert found["convoy_batch_closed_total", (("reason", "idle"),)] == 1


def test_versions_of_a_model_share_its_queue_and_a_new_process_begins_with_an_empty_one() -> None:
    counters = Counters.alone()
    metrics = Metrics(counters)
    versions = [ModelMetrics(metrics, "m", version, ("a", "b")) for version in "12"]
    for model, rows in zip((*versions, versions[0]), (5, 3, 4), strict=True):
        model.queued(rows)
    assert samples(metrics)["convoy_queue_images", (("model", "m"),)] == 7
    versions[0].classified([prediction(0.75, 0.25)])
    successor = samples(Metrics(counters))
    assert successor["convoy_queue_images", (("model", "m"),)] == 0
    assert successor["convoy_predictions_total", (("label", "a"), ("model", "m"))] == 1
