"""What the service is expected to say of itself is what it should choose on this processor."""

from __future__ import annotations

from pathlib import Path

import pytest

from service import providers
from tests.gpu import provider
from tests.gpu.steps import ROOT, Options
from tests.gpu.subject import Context


@pytest.mark.parametrize(
    ("model", "dot_products", "expected"),
    [(Options.model, True, "int8"), (Options.model, False, "fp32"), ("models/tutorial-cnn/1", True, "fp32")],
)
def test_the_best_file_that_the_model_has_is_expected(
    model: str, dot_products: bool, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(providers, "has_int8_dot_product", lambda: dot_products)
    monkeypatch.setattr(Context, "device", "cpu")
    context = Context(Options(model=str(ROOT / model), work=str(tmp_path)))
    assert provider.best_precision(context) == expected


def test_what_is_told_is_what_was_expected(tmp_path: Path) -> None:
    rows = list(provider.said(Context(Options(model=str(ROOT / Options.model), work=str(tmp_path)))))
    assert [(row.name, row.met) for row in rows] == [("/readyz", True), ("/v1/models", True), ("/metrics", True)]
