"""Numbers of the other steps → verdicts, on made-up numbers whose answers are known."""

from __future__ import annotations

from tests.gpu.report import Row
from tests.gpu.steps import Options
from tests.gpu.subject import Context
from tests.gpu.verdict import judge

CEILINGS = [
    Row("matrix product", 800.0, "TFLOP/s"),
    Row("copy", 4000.0, "GB/s"),
    Row("operations of 1024", 240.0, "GFLOP"),
    Row("bytes of 1024", 400.0, "MB"),
]


def speeds(one: float, many: float) -> list[Row]:
    return [Row("1", one), Row("1 with upload and download", one / 2), Row("1024", many)]


def judged(**steps: list[Row]) -> dict[str, Row]:
    rows = {f"speed/{name.replace('_', '-')}": found for name, found in steps.items()}
    return {row.name: row for row in judge(Context(Options(), {"speed/ceilings": CEILINGS, **rows}))}


def test_the_roofline_is_the_larger_of_arithmetic_and_memory() -> None:
    found = judged(fp16=speeds(1e4, 1.024e6))
    assert found["1024: the roofline"].value == 1024 / 300e-6  # 240 GFLOP at 800 TFLOP/s; the bytes take 100 µs
    assert "arithmetic" in found["1024: the roofline"].note
    share = found["1024: of the roofline"]
    assert (round(float(share.value), 6), share.met) == (30.0, False)


def test_the_faster_of_what_pytorch_compiles_is_the_measure() -> None:
    found = judged(fp16=speeds(1e4, 2e6), torch_compiled=speeds(5e3, 2.5e6), torch_graphs=speeds(2e4, 1e6))
    assert [found[f"{size}: speed over that of PyTorch compiled"].value for size in (1, 1024)] == [0.5, 0.8]


def test_a_measure_that_may_still_rise_is_said() -> None:
    for others, note in (({}, "nothing is known from speed/torch-graphs"), ({"torch_graphs": speeds(2e4, 1e6)}, "")):
        found = judged(fp16=speeds(1e4, 2e6), torch_compiled=speeds(5e3, 2.5e6), **others)
        assert found["1: speed over that of PyTorch compiled"].note == note


def test_options_that_gain_are_named_with_what_they_gain() -> None:
    found = judged(fp16=speeds(1e4, 2e6), fp16_nhwc=speeds(1e4, 2.88e6), fp16_graph=speeds(1.01e4, 2e6))
    assert found["would change"].value == "prefer_nhwc=1"
    assert found["would change"].note == "+20% on average (1: +0%, 1024: +44%)"


def test_nothing_is_changed_for_what_gains_nothing() -> None:
    found = judged(fp16=speeds(1e4, 2e6), fp16_nhwc=speeds(1e4, 2e6))
    assert (found["would change"].value, found["would change"].note) == (
        "nothing", "of 1 other choices measured none gains 3 %"
    )  # fmt: skip


def test_what_was_not_measured_is_not_judged() -> None:
    assert judged(fp16=speeds(1, 2))["speed over that of PyTorch compiled"].note.startswith("skipped")
