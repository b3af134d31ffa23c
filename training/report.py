"""Metadata and evaluations → text for people: the model card, the table that `evaluate` prints."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from service.metadata import CARD, Evaluation, ModelMetadata, Robustness, Scaling
from training import plots
from training.calibrate import NOTHING
from training.degrade import seen_corruptions
from training.lineage import command, plain, teachers

RELIABILITY = "reliability.svg"
MOST_LABELS = 100  # that are listed in one line


def table(evaluation: Evaluation) -> str:
    """What `convoy-train evaluate` prints."""
    rows = [
        (
            "images",
            f"{evaluation.images:,} ({evaluation.split} split, single view, {evaluation.precision} ONNX file)",
        ),
        ("accuracy", f"{evaluation.accuracy:.2%}"),
        ("NLL", f"{evaluation.nll:.4f}"),
        ("Brier score", f"{evaluation.brier:.4f}"),
        ("ECE, 15 bins", f"{evaluation.ece:.2%} ({evaluation.ece_uncalibrated:.2%} uncalibrated)"),
        *(
            (
                f"sets for {float(asked):.0%}",
                f"hold the class {sets.coverage:.2%} of the time, {sets.mean_size:.2f} large",
            )
            for asked, sets in evaluation.prediction_sets.items()
        ),
        *((f"  {label}", f"{accuracy:.1%}") for label, accuracy in evaluation.class_accuracy.items()),
    ]
    return _columns(rows, 14)


def robustness_table(robustness: Robustness, seen: Collection[str]) -> str:
    """What `convoy-train evaluate --suite full` prints besides; `seen` are corruptions like some in training."""
    head = f"{robustness.images:,} ({robustness.split} split, damaged, {robustness.precision} ONNX file)"
    rows = [("images", head), *_robustness_rows(robustness, seen, " ")]
    return _columns(rows, 26)


def _columns(rows: list[tuple[str, str]], least: int) -> str:
    """Names and values below each other, whatever classes are called."""
    width = max(least, *(len(name) for name, _ in rows))
    return "\n".join(f"{name:{width}} {value}" for name, value in rows)


def seen_in_training(metadata: ModelMetadata) -> tuple[str, ...]:
    """The corruptions of the suite whose like the network was trained on: it had time to prepare for them."""
    p = metadata.provenance
    lives = [p.config, *(teacher.config for teacher in p.teachers[:1] if p.config.get("start_from_teacher"))]
    named = (life.get("degradations") for life in lives)
    degradations = [str(name) for names in named if isinstance(names, list) for name in names]
    return tuple(dict.fromkeys(seen_corruptions(degradations)))


def _robustness_rows(robustness: Robustness, seen: Collection[str], between: str) -> list[tuple[str, str]]:
    unseen = robustness.corruptions.keys() - seen
    return [
        ("JPEG quality 75, 4:2:0", f"{robustness.jpeg_75:.2%}"),
        ("grey", f"{robustness.grey:.2%}"),
        ("mean of 15 corruptions", f"{robustness.mean_corruption_accuracy():.2%}"),
        (f"mean of the {len(unseen)} not trained on", f"{robustness.mean_corruption_accuracy(seen):.2%}"),
        *(
            (name, between.join(f"{accuracy:.1%}" for accuracy in accuracies))
            for name, accuracies in robustness.corruptions.items()
        ),
    ]


def write_card(metadata: ModelMetadata, folder: Path) -> None:
    """Write the model card of `metadata`, and the plot in it, into `folder`."""
    if shown := plotted(metadata):
        _replace(folder / RELIABILITY, plots.reliability_svg(shown))
    _replace(folder / CARD, card(metadata))


def _replace(path: Path, text: str) -> None:
    """Write it whole, or leave what was there."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def plotted(metadata: ModelMetadata) -> list[Evaluation]:
    """The evaluations whose reliability the card shows: on the test split, as soon as that was measured."""
    known = [e for e in metadata.evaluations if e.reliability]
    return [e for e in known if e.split == "test"] or known


def card(metadata: ModelMetadata) -> str:
    """The model card, in Markdown."""
    p, spec = metadata.provenance, metadata.input
    lines = [
        f"# {metadata.name}, version {metadata.version}",
        "",
        metadata.description,
        "",
        "| | |",
        "|---|---|",
        f"| architecture | `{metadata.architecture}`, {metadata.parameters:,} parameters, "
        f"{metadata.macs / 1e6:.1f} million multiply-accumulates |",
        f"| input | `image`, uint8 (N, {spec.height}, {spec.width}, 3), RGB; other sizes: `{spec.resize_policy}` |",
        "| output | `probabilities`, float32 (N, classes), softmax and calibration inside the graph |",
        f"| labels | {_listed(metadata.labels)} |",
        f"| calibration | {_calibration(metadata)}; fitted on {metadata.calibration.fitted_on} |",
        "",
        "## Evaluation",
        "",
        *_evaluation_table(metadata),
        *([f"![How often an answer is right, over its probability]({RELIABILITY})", ""] if plotted(metadata) else []),
        *_class_table(metadata),
        *_set_table(metadata),
        *_robustness(metadata),
        *(f"- {note}" for note in metadata.notes),
        *([""] if metadata.notes else []),
        "## Training",
        "",
        f"Data: {p.dataset}. Recipe `{p.recipe}`, {p.epochs} epochs: `{command(p)}`."
        if p.epochs
        else f"Not here: {p.dataset}.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {key} | {plain(value)} |" for key, value in p.config.items()),
        *(f"| trained with: {key} | {value} |" for key, value in p.training.items() if key != "command"),
        *(f"| exported with: {key} | {value} |" for key, value in p.export.items()),
        f"| created | {p.created_at} |",
        "",
        *teachers(p.teachers, p.config, p.epochs),
    ]
    return "\n".join(lines)


def _calibration(metadata: ModelMetadata) -> str:
    def scaling_text(scaling: Scaling) -> str:
        biases = ", ".join(f"{bias:+.3f}" for bias in scaling.biases)
        if len(scaling.biases) > MOST_LABELS:
            biases = f"from {min(scaling.biases):+.3f} to {max(scaling.biases):+.3f}"
        return (
            f"temperature {scaling.temperature:.4f}"
            + (f", class biases {biases}" if biases else "")
            + (f", exponent of surprisal {scaling.exponent:.4f}" if scaling.exponent != 1 else "")
        )

    others = (f"{scaling_text(scaling)} in the {kind} file" for kind, scaling in metadata.calibration.others.items())
    return "; ".join((scaling_text(metadata.calibration), *others))


def _cell(label: str) -> str:
    """A class's name as it may stand in a table: classes are called as somebody's folders are."""
    return " ".join(label.split()).replace("|", "\\|")


def _listed(labels: tuple[str, ...]) -> str:
    rest = f", … ({len(labels):,} in all)" if len(labels) > MOST_LABELS else ""
    return ", ".join(map(_cell, labels[:MOST_LABELS])) + rest


def _evaluation_table(metadata: ModelMetadata) -> list[str]:
    if not metadata.evaluations:
        missing = f"convoy-train evaluate models/{metadata.name}/{metadata.version} --record"
        return [f"Not measured yet: `{missing}`, with `--data` for pictures of its classes.", ""]
    fitted = (
        "The calibration was fitted on the validation split, so the validation ECE flatters; the test ECE does not."
    )
    flattering = (
        "No calibration was fitted, so no ECE flatters." if metadata.calibration.fitted_on == NOTHING else fitted
    )
    return [
        ("Last epoch, the" if metadata.provenance.epochs else "The") + " shipped ONNX file, one view of each image.",
        "",
        "| split | file | images | accuracy | NLL | Brier | ECE (15 bins) | ECE uncalibrated | command |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_evaluation_row(e) for e in metadata.evaluations),
        "",
        flattering,
        "",
    ]


def _evaluation_row(e: Evaluation) -> str:
    return (
        f"| {e.split} | {e.precision} | {e.images:,} | {e.accuracy:.2%} | {e.nll:.4f} | {e.brier:.4f} | {e.ece:.2%} "
        f"| {e.ece_uncalibrated:.2%} | `{e.command}` |"
    )


def _class_table(metadata: ModelMetadata) -> list[str]:
    if not metadata.evaluations:
        return []
    head = [f"{e.split} ({e.precision})" for e in metadata.evaluations]
    lines = ["| class | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    for label in metadata.labels:
        shares = [f"{e.class_accuracy[label]:.1%}" if label in e.class_accuracy else "–" for e in metadata.evaluations]
        lines.append(f"| {_cell(label)} | " + " | ".join(shares) + " |")
    return [*lines, ""]


def _set_table(metadata: ModelMetadata) -> list[str]:
    if not metadata.calibration.thresholds:
        return []
    those = "kept for validation" if metadata.calibration.fitted_on == NOTHING else "that the calibration was fitted on"
    return [
        "Prediction sets: every class from a threshold of probability on, and always the most probable one. The "
        f"thresholds are split-conformal, from the images {those}; what was measured on the validation split is each "
        "half of it by thresholds from the other half.",
        "",
        "| split | file | asked for | measured | mean size | threshold |",
        "|---|---|---|---|---|---|",
        *(
            f"| {e.split} | {e.precision} | {float(asked):.0%} | {sets.coverage:.2%} | {sets.mean_size:.3f} "
            f"| {metadata.calibration.thresholds[e.precision][asked]:.4f} |"
            for e in metadata.evaluations
            for asked, sets in e.prediction_sets.items()
        ),
        "",
    ]


def _robustness(metadata: ModelMetadata) -> list[str]:
    if not metadata.robustness:
        return []
    seen = seen_in_training(metadata)
    columns = [dict(_robustness_rows(each, seen, " · ")) for each in metadata.robustness]
    trained_on = f" The network was trained on the like of {' and '.join(seen)}." if seen else ""
    return [
        "## Robustness",
        "",
        "Accuracy on damaged images. The corruptions are CIFAR-10-C's (D. Hendrycks and T. Dietterich, 2019) at "
        f"severities 1 to 5, implemented anew: frost is generated, not photographed.{trained_on}",
        "",
        "| | " + " | ".join(f"{each.split} ({each.precision})" for each in metadata.robustness) + " |",
        "|---" * (len(columns) + 1) + "|",
        *(f"| {name} | " + " | ".join(column[name] for column in columns) + " |" for name in columns[0]),
        "| command | " + " | ".join(f"`{each.command}`" for each in metadata.robustness) + " |",
        "",
    ]
