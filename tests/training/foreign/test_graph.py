"""ONNX files from elsewhere: what is known of the network, or what keeps it from being served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from tests.training.foreign.networks import SIZE, frozen, network, softmax
from training import golden
from training.calibrate import Calibrator
from training.errors import ExportError
from training.foreign.graph import count_macs, parameters, read
from training.foreign.wrapping import Normalisation, with_way_in, with_way_out
from training.onnx_graph import run_onnx_with_logits

PICTURES = golden.pictures(SIZE, SIZE, 9)


def test_its_size_can_be_said_where_the_file_leaves_it_open(tmp_path: Path) -> None:
    path = network(tmp_path / "a.onnx", shape=("N", 3, "h", "w"))
    with pytest.raises(ExportError, match=r"any size, float \(N, 3, h, w\); say with --size"):
        read(path)
    assert (read(path, 24).height, read(path, 24).width) == (24, 24)
    with pytest.raises(ExportError, match="not of 24 × 24; leave out --size"):
        read(network(tmp_path / "b.onnx"), 24)


def test_where_sums_of_integers_would_be_cut_off_its_answers_are_exact_as_those_of_what_is_made_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    original = onnxruntime.InferenceSession

    def session(model: bytes, options: onnxruntime.SessionOptions, **given: Any) -> onnxruntime.InferenceSession:  # noqa: ANN401
        asked.append(options.get_session_config_entry("session.x64quantprecision"))
        return original(model, options, **given)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    read(network(tmp_path / "a.onnx")).run(np.zeros((1, SIZE, SIZE, 3), np.float32))
    assert asked == ["1"]


def test_a_size_below_nothing_is_one_that_is_open(tmp_path: Path) -> None:
    path = network(tmp_path / "a.onnx", shape=(-1, 3, -1, -1))
    with pytest.raises(ExportError, match=r"any size, float \(\?, 3, \?, \?\); say with --size"):
        read(path)
    assert (read(path, 24).height, read(path, 24).width) == (24, 24)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"shape": ("N", 1, SIZE, SIZE)}, r"inputs input float \(N, 1, 16, 16\); one is needed, float32"),
        ({"shape": ("N", 3, SIZE)}, "one is needed"),
        ({"kind": TensorProto.DOUBLE}, r"input double \("),
        ({"inputs": 2}, r"input float \(N, 3, 16, 16\), more 1 float"),
        ({"opset": 10}, "has opset 10; export the network again with 11 or newer"),
    ],
)
def test_what_can_not_be_served_is_told(tmp_path: Path, options: dict[str, object], told: str) -> None:
    with pytest.raises(ExportError, match=told):
        read(network(tmp_path / "a.onnx", **options))  # type: ignore[arg-type]


OURS = """<ir_version: 8, opset_import: ["": 17]>
means (float[N, 3, 16, 16] image) => (float[N, 3] probabilities) {
    scaled_logits = GlobalAveragePool(image)
    always = Constant<value = bool {1}>()
    probabilities = If(always) <
        then_branch = yes () => (float[N, 3] a) { a = Flatten(scaled_logits) },
        else_branch = no () => (float[N, 3] b) { b = Flatten(scaled_logits) }
    >
}"""


def test_tensors_may_be_called_as_ours_are(tmp_path: Path) -> None:
    onnx.save_model(onnx.parser.parse_model(OURS), str(tmp_path / "a.onnx"))
    foreign, expected = read(tmp_path / "a.onnx"), torch.from_numpy(Normalisation()(PICTURES)).mean((1, 2))
    assert np.allclose(foreign.run(Normalisation()(PICTURES)), expected, atol=1e-6)
    model = with_way_out(with_way_in(foreign, Normalisation()), Calibrator(), {}, classes=3)
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, str(tmp_path / "b.onnx"))
    probabilities, logits = run_onnx_with_logits(tmp_path / "b.onnx", PICTURES)
    assert np.allclose(logits, expected, atol=1e-6)
    assert np.allclose(probabilities, expected.softmax(1), atol=1e-6)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE])
@pytest.mark.parametrize("end", [(), softmax()])
def test_an_output_of_other_floats_becomes_float32(tmp_path: Path, kind: int, end: list[onnx.NodeProto]) -> None:
    model = onnx.load(network(tmp_path / "a.onnx"))
    model.graph.node.append(helper.make_node("Cast", ["logits"], ["cast"], to=kind))
    model.graph.node.extend([helper.make_node("Softmax", ["cast"], ["output"], axis=1)] if end else [])
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("output" if end else "cast", kind, ["N", 3]))
    onnx.save_model(model, str(tmp_path / "b.onnx"))
    foreign, values = read(tmp_path / "b.onnx"), Normalisation()(PICTURES)
    expected = read(tmp_path / "a.onnx").run(values)
    assert np.allclose(foreign.run(values), expected, atol=5e-3)
    written = with_way_out(with_way_in(foreign, Normalisation()), Calibrator(), {}, classes=3)
    onnx.save_model(written, str(tmp_path / "c.onnx"))
    probabilities, _ = run_onnx_with_logits(tmp_path / "c.onnx", PICTURES)
    assert np.allclose(probabilities, torch.from_numpy(expected).softmax(1), atol=5e-3)


def test_a_softmax_of_all_images_together_is_not_taken_away(tmp_path: Path) -> None:
    end = [helper.make_node("Softmax", ["logits"], ["output"], axis=0)]
    foreign = read(network(tmp_path / "a.onnx", end=end))
    assert foreign.output == "output"
    assert (foreign.run(Normalisation()(PICTURES)) == 1).all()


def test_a_softmax_that_names_no_axis_is_one_of_the_classes(tmp_path: Path) -> None:
    for opset in (12, 13):
        end = [helper.make_node("Softmax", ["logits"], ["output"])]
        assert read(network(tmp_path / f"{opset}.onnx", end=end, opset=opset)).output == "logits"


@pytest.mark.parametrize("kind", ["Sigmoid", "HardSigmoid"])
@pytest.mark.parametrize(
    "behind",
    [
        [helper.make_node("Identity", ["each"], ["output"])],
        [
            helper.make_node("Cast", ["each"], ["cast"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["cast"], ["output"]),
        ],
        [
            helper.make_node("Unsqueeze", ["each"], ["a"], axes=[2]),
            helper.make_node("Squeeze", ["a"], ["output"], axes=[2]),
        ],
        [helper.make_node("Reshape", ["each", "one row"], ["output"])],
    ],
    ids=lambda nodes: nodes[0].op_type,
)
def test_an_output_of_a_sigmoid_is_told(tmp_path: Path, kind: str, behind: list[onnx.NodeProto]) -> None:
    told = rf"is that of a {kind}, which judges .* export it again with its logits, what the {kind} takes"
    with pytest.raises(ExportError, match=told):
        read(network(tmp_path / "a.onnx", end=[helper.make_node(kind, ["logits"], ["output"])]))
    with pytest.raises(ExportError, match=told):
        read(network(tmp_path / "b.onnx", end=[helper.make_node(kind, ["logits"], ["each"]), *behind], opset=12))


@pytest.mark.parametrize(
    "behind",
    [
        helper.make_node("Mul", ["logits", "each"], ["output"]),
        helper.make_node("Softmax", ["each"], ["output"], axis=1),
    ],
    ids=lambda node: node.op_type,
)
def test_a_sigmoid_within_a_network_is_its_own_business(tmp_path: Path, behind: onnx.NodeProto) -> None:
    """A SiLU at the end, and classes that a softmax makes exclude one another."""
    foreign = read(network(tmp_path / "a.onnx", end=[helper.make_node("Sigmoid", ["logits"], ["each"]), behind]))
    assert foreign.run(Normalisation()(PICTURES)).shape == (9, 3)


def test_an_output_that_is_a_label_is_told(tmp_path: Path) -> None:
    model = onnx.load(network(tmp_path / "a.onnx"))
    model.graph.node.append(helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0))
    model.graph.output.insert(0, helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]))
    onnx.save_model(model, str(tmp_path / "b.onnx"))
    with pytest.raises(ExportError, match=r"first output of .*b.onnx is int64 \(N\); export the network again with"):
        read(tmp_path / "b.onnx")
    reduced = [helper.make_node("ReduceMax", ["logits"], ["output"], axes=[1], keepdims=0)]
    with pytest.raises(ExportError, match=r"has the shape \(1,\), not \(N, classes\); export it again with its"):
        read(network(tmp_path / "c.onnx", end=reduced)).run(Normalisation()(PICTURES))


def test_other_outputs_may_be_made_of_a_softmax_at_the_end(tmp_path: Path) -> None:
    model = onnx.load(network(tmp_path / "a.onnx", end=softmax()))
    model.graph.node.append(helper.make_node("ArgMax", ["output"], ["label"], axis=1, keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]))
    onnx.save_model(model, str(tmp_path / "a.onnx"))
    values = Normalisation()(PICTURES)
    assert np.array_equal(read(tmp_path / "a.onnx").run(values), read(network(tmp_path / "b.onnx")).run(values))


def test_what_is_no_network_is_told(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="There is no file"):
        read(tmp_path / "none.onnx")
    (tmp_path / "a.onnx").write_bytes(b"hello")
    with pytest.raises(ExportError, match="no valid ONNX file"):
        read(tmp_path / "a.onnx")
    rows = [helper.make_node("Reshape", ["logits", "one row"], ["a"]), helper.make_node("Identity", ["a"], ["output"])]
    twice = [helper.make_node("Unsqueeze", ["logits", "one row"], ["output"])]
    assert read(network(tmp_path / "b.onnx", end=rows)).run(Normalisation()(PICTURES)).shape == (9, 3)
    with pytest.raises(ExportError, match=r"has the shape|can't run"):
        read(network(tmp_path / "c.onnx", end=twice)).run(Normalisation()(PICTURES))


def test_a_file_without_outputs_is_told(tmp_path: Path) -> None:
    model = onnx.load(network(tmp_path / "a.onnx"))
    del model.graph.output[:]
    onnx.save_model(model, str(tmp_path / "a.onnx"))
    with pytest.raises(ExportError, match=r"a.onnx has no output; export the network again with its logits"):
        read(tmp_path / "a.onnx")


def test_arithmetic_and_parameters_are_counted(tmp_path: Path) -> None:
    for shape in (("N", 3, SIZE, SIZE), (1, 3, SIZE, SIZE)):
        foreign = read(network(tmp_path / "a.onnx", shape=shape, end=frozen() if shape[0] == 1 else []))
        assert count_macs(foreign) == 3 * 3 * SIZE * SIZE + 3 * 3
        assert parameters(foreign) == 9 + 9


def test_of_a_tensor_of_any_rank_no_arithmetic_is_counted(tmp_path: Path) -> None:
    yes = helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
    branches = {
        name: helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])
        for name, node in (
            ("then_branch", helper.make_node("Identity", ["logits"], ["then_branch"])),
            ("else_branch", helper.make_node("Unsqueeze", ["logits", "one row"], ["else_branch"])),
        )
    }
    either = helper.make_node("If", ["yes"], ["either"], **branches)
    end = [yes, either, helper.make_node("MatMul", ["either", "matrix"], ["output"])]
    foreign = read(network(tmp_path / "a.onnx", end=end))
    assert foreign.run(Normalisation()(PICTURES)).shape == (9, 3)
    assert count_macs(foreign) == 3 * 3 * SIZE * SIZE + 3 * 3
