"""Calibration is found again where it was hidden; its measures, against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from training.calibrate import (
    BIASED,
    LEAST_EXPONENT,
    Calibrator,
    brier_score,
    conformal_threshold,
    conformal_thresholds,
    cross_fitted_sets,
    expected_calibration_error,
    fit,
    held_out,
    negative_log_likelihood,
    prediction_sets,
    reliability,
)
from training.data import Split

BIASES = (0.3, -0.4, 0.0, 0.6, -0.5)


def drawn(images: int, calibrator: Calibrator) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels as probable as `calibrator` says."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((images, 5), generator=generator, dtype=torch.double) * 3
    return logits, torch.multinomial(calibrator(logits), 1, generator=generator).flatten()


def test_mirror_images_are_held_out_too_where_they_are_the_same_to_the_network() -> None:
    split = Split(torch.arange(2 * 4 * 3 * 3, dtype=torch.uint8).reshape(2, 4, 3, 3), torch.tensor([1, 0]))
    assert held_out(split, ("crop-4",)) is split
    both = held_out(split, ("crop-4", "alternating-flip"))
    assert both.labels.tolist() == [1, 0, 1, 0]
    assert torch.equal(both.images[:2], split.images)
    assert torch.equal(both.images[2:, :, 0], split.images[:, :, 2])


@pytest.mark.parametrize(
    "true",
    [
        Calibrator(0.5, (0.0,) * 5),
        Calibrator(2.5, (0.0,) * 5),
        Calibrator(1.0, BIASES),
        Calibrator(1.0, (0.0,) * 5, 1.5),
        Calibrator(1.7, BIASES, 0.8),
    ],
    ids=str,
)
def test_what_makes_logits_honest_is_found(true: Calibrator) -> None:
    logits, labels = drawn(40_000, true)
    found = fit(logits, labels)
    assert found.temperature == pytest.approx(true.temperature, rel=0.06)
    assert found.exponent == pytest.approx(true.exponent, rel=0.06)
    assert (found(logits) - true(logits)).abs().mean() < 0.004


def test_few_images_move_the_exponent_little_and_no_label() -> None:
    logits, labels = drawn(20, Calibrator())
    found = fit(logits, labels)
    assert found.biases == ()
    assert 0.5 < found.exponent < 2


def test_biases_are_fitted_where_there_are_pictures_enough_of_each_class_whatever_their_views() -> None:
    logits, labels = drawn(BIASED * 5, Calibrator(1.0, BIASES))
    assert len(fit(logits, labels).biases) == 5
    assert fit(logits, labels, pictures=len(logits) // 2).biases == ()


def test_what_is_seen_twice_moves_a_calibrator_no_further() -> None:
    logits, labels = drawn(20, Calibrator(2.5, (0.0,) * 5))
    once, twice = fit(logits, labels), fit(logits.repeat(2, 1), labels.repeat(2), pictures=20)
    assert (twice.temperature, twice.exponent) == pytest.approx((once.temperature, once.exponent), rel=1e-3)


@pytest.mark.parametrize("seed", range(6))
def test_a_calibrator_of_few_pictures_does_no_harm(seed: int) -> None:
    """With biases, thirty pictures made networks right less often, and once ten times as far from the truth."""
    logits, labels = views(30, 2, seed, classes=10)
    found = fit(logits, labels, pictures=30)
    new, truth = views(2_000, 1, 100 + seed, classes=10)
    assert torch.equal(found(new).argmax(1), new.argmax(1))
    calibrated, raw = (negative_log_likelihood(p, truth) for p in (found(new), new.softmax(1)))
    assert calibrated < raw + 0.03


def test_right_answers_alone_make_no_certainty() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 3
    logits = torch.nn.functional.one_hot(labels, 3).double() + torch.randn((40, 3), generator=generator) / 8
    assert torch.equal(logits.argmax(1), labels)
    found = fit(logits, labels)
    unsure = found(torch.tensor([[1.0, 0.8, 0.7]], dtype=torch.double))
    assert 0.4 < float(unsure.max()) < 0.9  # by likelihood alone it would be 0.99


def views(pictures: int, views: int, seed: int, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of several views of each picture, much alike, and the labels: what a network too sure of itself says."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (pictures,), generator=generator)
    seen = torch.randn((pictures, classes), generator=generator) + 2.2 * torch.nn.functional.one_hot(labels, classes)
    noise = 0.15 * torch.randn((views, pictures, classes), generator=generator)
    return 1.8 * (seen + noise).flatten(0, 1), labels.repeat(views)


@pytest.mark.parametrize("seed", range(12))
def test_of_few_images_of_many_classes_the_search_for_a_calibrator_comes_back(seed: int) -> None:
    logits, labels = views(20, 2, seed, classes=10)
    found = fit(logits, labels)
    assert all(map(math.isfinite, (found.temperature, found.exponent, *found.biases)))
    assert negative_log_likelihood(found(logits), labels) < negative_log_likelihood(logits.softmax(1), labels)


def test_a_network_that_is_as_sure_as_can_be_gets_a_calibrator_too() -> None:
    """Others' networks may have logits of hundreds, where a surprisal is 0 and the search meets inf."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (30,), generator=generator)
    said = torch.where(torch.rand(30, generator=generator) < 0.1, labels.roll(1), labels)
    logits = 200 * torch.nn.functional.one_hot(said, 3) + torch.randn((30, 3), generator=generator)
    assert negative_log_likelihood(fit(logits, labels)(logits), labels) < 0.25  # those in ten that are wrong: 0.19


def test_a_neutral_calibrator_is_the_softmax() -> None:
    logits = torch.randn((50, 5), generator=torch.Generator().manual_seed(0))
    assert torch.equal(Calibrator()(logits), logits.softmax(1))


def test_what_the_last_layer_gives_leads_back_to_the_logits() -> None:
    logits = torch.randn((50, 5), generator=torch.Generator().manual_seed(0), dtype=torch.double)
    calibrator = Calibrator(1.7, BIASES, 1.3)
    assert torch.allclose(calibrator.unscaled(calibrator.scaled(logits)), logits)


def test_one_calibrator_after_another_is_a_calibrator() -> None:
    logits = torch.randn((50, 5), generator=torch.Generator().manual_seed(0), dtype=torch.double)
    first, second = Calibrator(1.7, BIASES, 1.3), Calibrator(0.8, (0.1, 0.2, 0.0, 0.0, -0.3), 1.1)
    assert torch.allclose(first.then(second)(logits), second(first.scaled(logits)))
    assert Calibrator(2.0).then(Calibrator(3.0)) == Calibrator(6.0)


@pytest.mark.parametrize("exponent", [0.7, 1.0, 1.6])
def test_probabilities_are_finite_and_sum_to_one_however_sure_the_logits_are(exponent: float) -> None:
    logits = torch.tensor([[1e4, 0.0, -1e4], [0.0, 0.0, 0.0], [30.0, -30.0, 30.0]])
    p = Calibrator(1.0, (), exponent)(logits)
    assert torch.allclose(p.sum(1), torch.ones(3))
    assert p[0].tolist() == [1, 0, 0]
    assert torch.allclose(p[1], torch.full((3,), 1 / 3))


def test_ece_by_hand() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]])
    labels = torch.tensor([0, 1, 0, 1])
    # the bin of 0.9 is right half the time: gap 0.4 for 2 images; that of 0.6 always: gap 0.4 for 2
    assert expected_calibration_error(probabilities, labels) == pytest.approx(0.4)


def test_ece_of_certain_and_right_is_zero() -> None:
    assert expected_calibration_error(torch.eye(4), torch.arange(4)) == 0


def test_nll_and_brier_by_hand() -> None:
    probabilities, labels = torch.tensor([[0.5, 0.5], [0.25, 0.75]]), torch.tensor([0, 0])
    assert negative_log_likelihood(probabilities, labels) == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert brier_score(probabilities, labels) == pytest.approx((0.5 + 2 * 0.75**2) / 2)


def test_a_probability_of_zero_is_not_infinite() -> None:
    assert math.isfinite(negative_log_likelihood(torch.eye(2), torch.tensor([1, 0])))


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_prediction_sets_hold_the_true_class_as_often_as_promised(coverage: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn((8_000, 10), generator=generator)
    labels = torch.multinomial((0.5 * logits).softmax(1), 1, generator=generator).squeeze(1)  # overconfident by 2
    p = logits.softmax(1)
    threshold = conformal_threshold(p[:4_000], labels[:4_000], coverage)
    sets = prediction_sets(p[4_000:], threshold)
    held = sets.gather(1, labels[4_000:].unsqueeze(1)).double().mean()
    assert abs(float(held) - coverage) < 0.015  # 2.5 standard deviations of the two samples together
    assert bool(sets.any(1).all())


def test_a_second_view_of_each_picture_is_no_second_picture() -> None:
    p_true = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    p, labels = torch.stack([p_true, 1 - p_true], 1).repeat(2, 1), torch.zeros(18, dtype=torch.long)
    for coverage in (0.5, 0.9, 0.95):
        alone = conformal_threshold(p[:9], labels[:9], coverage)
        assert conformal_threshold(p, labels, coverage, pictures=9) == pytest.approx(alone)


def test_sets_keep_their_promise_though_few_pictures_made_calibrator_and_thresholds() -> None:
    held = dict.fromkeys(("0.9", "0.95", "0.99"), 0.0)
    for seed in range(20):
        logits, labels = views(30, 2, seed)
        calibrator = fit(logits, labels, pictures=30)
        found = conformal_thresholds(calibrator(logits), labels, pictures=30)
        new, truth = views(1_000, 1, 1_000 + seed)
        for coverage, threshold in found.items():
            sets = prediction_sets(calibrator(new), threshold)
            held[coverage] += float(sets.gather(1, truth.unsqueeze(1)).double().mean()) / 20
    assert all(share >= float(coverage) for coverage, share in held.items()), held


def test_one_picture_promises_nothing() -> None:
    logits, labels = views(1, 2, 0)
    assert set(conformal_thresholds(logits.softmax(1), labels, pictures=1).values()) == {0.0}
    assert cross_fitted_sets(logits[:1].softmax(1), labels[:1], 0.9).all()  # the other half is empty


def test_each_half_is_measured_with_the_threshold_of_the_other() -> None:
    p_true = torch.tensor([0.9, 0.2, 0.75, 0.3, 0.7, 0.4])  # even places are sure, odd ones are not
    p, labels = torch.stack([p_true, 1 - p_true], 1), torch.zeros(6, dtype=torch.long)
    sets = cross_fitted_sets(p, labels, 0.7)  # the third of three: 0.2 for the even places, 0.7 for the odd ones
    assert sets[::2].tolist() == [[True, False], [True, True], [True, True]]
    assert sets[1::2].tolist() == [[False, True], [False, True], [False, True]]


def test_the_threshold_is_the_smallest_sample_quantile_that_keeps_the_promise() -> None:
    p_true = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    p, labels = torch.stack([p_true, 1 - p_true], 1), torch.zeros(9, dtype=torch.long)
    assert conformal_threshold(p, labels, 0.5) == pytest.approx(0.5)  # the fifth of nine
    assert conformal_threshold(p, labels, 0.9) == pytest.approx(0.1)
    assert conformal_threshold(p, labels, 0.95) == 0  # nine images can't promise that


def test_a_set_is_never_empty() -> None:
    sets = prediction_sets(torch.tensor([[0.4, 0.35, 0.25]]), 0.9)
    assert sets.tolist() == [[True, False, False]]


def test_a_set_holds_what_just_reaches_the_threshold() -> None:
    sets = prediction_sets(torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.375, 0.125]]), 0.25)
    assert sets.tolist() == [[True, True, True], [True, True, False]]


def test_reliability_sums_are_of_every_image_once() -> None:
    p = torch.tensor([[0.7, 0.3], [0.4, 0.6], [0.1, 0.9], [0.9, 0.1]])
    sums = reliability(p, torch.tensor([0, 0, 1, 1]), bins=5)
    assert sums[:3].eq(0).all()  # two classes: nothing is below 0.5
    assert torch.allclose(sums[3], torch.tensor([2, 1.3, 1], dtype=torch.double))
    assert torch.allclose(sums[4], torch.tensor([2, 1.8, 1], dtype=torch.double))


def test_a_probability_on_the_border_of_two_bins_belongs_to_the_lower() -> None:
    top = torch.tensor([0.5, 0.625, 0.75, 0.875, 1])
    p = torch.stack([top, 1 - top], 1)
    sums = reliability(p, torch.zeros(5, dtype=torch.long), bins=4)  # (0.25, 0.5], (0.5, 0.75] …
    assert sums[:, 0].tolist() == [0, 1, 2, 2]
    assert reliability(p, torch.zeros(5, dtype=torch.long), bins=1)[:, 0].tolist() == [5]


@pytest.mark.parametrize("classes", [3, 10, 100])
def test_where_wrong_answers_are_as_sure_as_right_ones_float32_still_suffices(classes: int) -> None:
    """Without a limit the exponent would be 0.25 to 0.4, and the last bits of u move probabilities by 10⁻³."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (3_000,), generator=generator)
    said = torch.where(torch.rand(3_000, generator=generator) < 0.3, labels.roll(1), labels)
    logits = 15 * torch.nn.functional.one_hot(said, classes) + torch.randn((3_000, classes), generator=generator)
    found = fit(logits, labels)
    assert found.exponent == pytest.approx(LEAST_EXPONENT)
    assert found.exponent >= LEAST_EXPONENT
    assert (found(logits) - found(logits.double())).abs().max() < 5e-6
