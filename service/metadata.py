"""The contract between training, which writes it, and the service, which reads it: one class on both sides.

`models/<name>/<version>/metadata.json` holds one `ModelMetadata`. Whatever a file must satisfy to be served is
checked here; a `ValueError` (pydantic's `ValidationError` among them) says what does not hold. Everybody may read what
`read` raises; pydantic's own words are in the log.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    StringConstraints,
    ValidationError,
    model_validator,
)

FILE_NAME, CARD = "metadata.json", "MODEL_CARD.md"
INPUT, OUTPUT = "image", "probabilities"  # the tensors of every ONNX file here
logger = logging.getLogger(__name__)

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Version = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,8}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Fraction = Annotated[float, Field(ge=0, le=1)]
Precision = Literal["fp32", "fp16", "int8"]
SplitName = Literal["validation", "test"]
StageKind = Literal["convolution", "activation", "pooling"]


class Record(BaseModel):
    """Frozen, and strict about what it doesn't know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FileRecord(Record):
    """A file beside the metadata, by its name and content."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]*$")]
    sha256: Sha256
    size_bytes: PositiveInt

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        """The record of the file at `path`."""
        return cls(name=path.name, sha256=_sha256(path), size_bytes=path.stat().st_size)

    def verify(self, folder: Path) -> Path:
        """The file's path in `folder`; raises `ValueError` when it is missing or not the recorded one."""
        path = folder / self.name
        if not path.is_file():
            raise ValueError(f"{self.name} is missing")
        if path.stat().st_size != self.size_bytes or _sha256(path) != self.sha256:
            raise ValueError(f"{self.name} is not the file that was exported (its SHA-256 differs)")
        return path


class InputSpec(Record):
    """What the graph takes: `image`, uint8 (N, height, width, 3), RGB; `resize_policy` brings other sizes to it."""

    height: PositiveInt
    width: PositiveInt
    resize_policy: str = "shorter-side-crop"


class Stage(Record):
    """A layer whose output can be looked at: `tensor` of the graph, float32 (N, C, H, W)."""

    name: str
    kind: StageKind
    tensor: str


class Stages(Record):
    """The bytes of the fp32 file and then those of `file` are one model, which also outputs what is `shown`."""

    file: FileRecord
    shown: Annotated[tuple[Stage, ...], Field(min_length=1)]


class Scaling(Record):
    """What the graph does with logits z: softmax(-u ** exponent), u = -log softmax(z / temperature + biases).

    The temperature is C. Guo et al.'s (2017), the biases, one per class or none, are A. Alexandari et al.'s (2020).
    """

    temperature: Annotated[float, Field(gt=0)]
    biases: tuple[float, ...] = ()
    exponent: Annotated[float, Field(gt=0)] = 1


def _scaling(value: object) -> object:
    """Models exported before there were biases and exponents have a bare temperature here."""
    return {"temperature": value} if isinstance(value, (int, float)) else value


class Calibration(Scaling):
    """How the probabilities of the fp32 and fp16 files were made honest, and on which images.

    `others` are those of files whose logits differ enough from the fp32 file's to have their own.
    `thresholds` are split-conformal: coverage ("0.95") → the probability from which on a class belongs to the set that
    holds the true one that often; the most probable class always does.
    """

    fitted_on: str
    others: dict[Precision, Annotated[Scaling, BeforeValidator(_scaling)]] = {}
    thresholds: dict[Precision, dict[str, Fraction]] = {}

    def of(self, precision: Precision) -> Scaling:
        """What is inside the file of that precision."""
        return self.others.get(precision, self)


class SetRecord(Record):
    """How often a prediction set held the true class, and how many classes it held on average."""

    coverage: Fraction
    mean_size: Annotated[float, Field(ge=1)]


class ReliabilityBin(Record):
    """Images whose answer had a probability in one interval: its mean, and how often the answer was right."""

    images: Annotated[int, Field(ge=0)]
    probability: Fraction
    accuracy: Fraction


class Evaluation(Record):
    """How good the exported file was on one split: by a single view of each image, with the last epoch's weights."""

    split: SplitName
    precision: Precision
    images: PositiveInt
    accuracy: Fraction
    nll: Annotated[float, Field(ge=0)]
    brier: Annotated[float, Field(ge=0, le=2)]
    ece: Fraction
    ece_uncalibrated: Fraction
    class_accuracy: dict[str, Fraction]
    prediction_sets: dict[str, SetRecord] = {}  # by coverage asked for; on images that no threshold was fitted on
    reliability: tuple[ReliabilityBin, ...] = ()  # intervals of equal width from 0 to 1
    command: str


class Robustness(Record):
    """Accuracy of the exported file on one split as uploads may be: re-encoded, grey, corrupted (CIFAR-10-C's ways)."""

    split: SplitName
    precision: Precision
    images: PositiveInt
    jpeg_75: Fraction
    grey: Fraction
    corruptions: dict[str, tuple[Fraction, ...]]  # at severities 1, 2 …
    command: str

    def mean_corruption_accuracy(self, leave_out: Collection[str] = ()) -> float:
        """Over all severities of all corruptions but those named."""
        accuracies = [a for name, each in self.corruptions.items() if name not in leave_out for a in each]
        return sum(accuracies) / len(accuracies)


TrainingConfig = dict[str, str | int | float | bool | list[str] | list[int] | None]


class TeacherRecord(Record):
    """A network whose answers were the targets."""

    recipe: str
    config: TrainingConfig
    training: dict[str, str]


class Provenance(Record):
    """Where the weights come from."""

    dataset: str
    recipe: str
    config: TrainingConfig
    epochs: Annotated[int, Field(ge=0)]  # 0 where it was trained elsewhere
    training: dict[str, str]
    teachers: tuple[TeacherRecord, ...] = ()
    export: dict[str, str]
    created_at: str


def _distinct(labels: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(labels)) != len(labels):
        raise ValueError("labels must be distinct")
    return labels


class ModelMetadata(Record):
    """Everything the service and a reader need to know about one version of one model."""

    schema_version: Literal[1] = 1
    name: Name
    version: Version
    description: str
    architecture: str
    labels: Annotated[tuple[str, ...], Field(min_length=2), AfterValidator(_distinct)]
    input: InputSpec
    parameters: PositiveInt
    macs: PositiveInt
    files: dict[Precision, FileRecord]
    golden: FileRecord
    stages: Stages | None = None
    calibration: Calibration
    evaluations: tuple[Evaluation, ...] = ()
    robustness: tuple[Robustness, ...] = ()
    notes: tuple[str, ...] = ()
    provenance: Provenance

    @model_validator(mode="after")
    def _has_a_reference_file(self) -> ModelMetadata:
        if "fp32" not in self.files:
            raise ValueError("files must hold at least the fp32 model")
        return self

    @model_validator(mode="after")
    def _has_a_bias_for_each_class(self) -> ModelMetadata:
        for scaling in (self.calibration, *self.calibration.others.values()):
            if len(scaling.biases) not in (0, len(self.labels)):
                raise ValueError("biases must be one per label, or none")
        return self

    def sets_measured(self, precision: Precision, coverage: str) -> Evaluation | None:
        """Where the file's prediction sets for `coverage` were measured: on the test split, if they were there."""
        found = {e.split: e for e in self.evaluations if e.precision == precision and coverage in e.prediction_sets}
        return found.get("test") or found.get("validation")

    @classmethod
    def read(cls, folder: Path) -> ModelMetadata:
        """The metadata in `folder`; raises `ValueError` or `OSError`."""
        try:
            return cls.model_validate_json((folder / FILE_NAME).read_bytes())
        except ValidationError as exc:
            first = exc.errors()[0]
            place = ".".join(map(str, first["loc"]))
            logger.error("%s is not as it should be: %s: %s", folder / FILE_NAME, place, first["msg"])
            if first["type"] == "json_invalid":
                raise ValueError(f"{FILE_NAME} is no JSON; the log says why") from exc
            where = f" at {place}" if place else ""
            ours = f": {first['ctx']['error']}" if first["type"] == "value_error" else f"{where}; the log says why"
            raise ValueError(f"{FILE_NAME} is not as it should be{ours}") from exc

    def write(self, folder: Path) -> None:
        """Write the metadata into `folder`, atomically."""
        partial = folder / (FILE_NAME + ".partial")
        try:
            partial.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
            partial.replace(folder / FILE_NAME)
        finally:
            partial.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
