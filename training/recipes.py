"""Named, frozen training configurations. `RECIPES` is the one place where a recipe is added."""

from __future__ import annotations

from dataclasses import dataclass, replace

SEEDS = 10_000  # how many there are, from 0 on: each has random numbers of its own, see `training.loop`


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides which weights come out, but for the data and the machine's arithmetic."""

    architecture: str
    epochs: float  # the last one may end early
    batch_size: int
    optimizer: str
    lr: float  # per 1,024 images with their losses summed, see `training.optim`; adam: the usual step size
    lr_schedule: str
    augmentations: tuple[str, ...] = ()
    degradations: tuple[str, ...] = ()  # which the student sees and its teachers don't, see `training.degrade`
    label_smoothing: float = 0.0
    weight_decay: float = 0.0
    momentum: float = 0.85
    norm_bias_lr_factor: float = 64.0
    muon_lr: float = 0.2  # how far the 3×3 filters turn in one step
    muon_momentum: float = 0.7
    lookahead: bool = False
    whiten_bias_epochs: int = 3
    teachers: tuple[str, ...] = ()  # recipes whose finished runs give the targets, see `training.distill`
    distill_temperature: float = 1.0  # above one, targets tell more of the classes that the teachers think unlikely
    start_from_teacher: bool = False  # with the first teacher's weights, not with fresh ones
    start_teaches: bool = True  # or its weights are all that is wanted of it
    inherit_answers: bool = False  # learn what the last teacher's run remembers of its own teachers; ask none
    restarts: tuple[int, ...] = ()  # epochs before which the lr schedule begins anew, for `training.average`
    start_weight: int = 1  # as how many of the averaged networks the first teacher counts
    view_cycle: int | None = None  # epochs after which views repeat, and with them the teachers' remembered answers
    image_size: int = 32  # pixels of the height and width of what the network sees
    seed: int = 0
    max_steps: int | None = None  # ends the run early; the lr schedule ends with it


def with_overrides(
    config: TrainConfig,
    *,
    epochs: int | None = None,
    image_size: int | None = None,
    seed: int | None = None,
    max_steps: int | None = None,
    start: str | None = None,
) -> TrainConfig:
    """`config` with what the command line changes; with `start` it begins with the weights of a run of that recipe."""
    if start is not None:
        config = replace(config, teachers=(start, *config.teachers), start_from_teacher=True, start_teaches=False)
    return replace(
        config,
        epochs=config.epochs if epochs is None else epochs,
        image_size=config.image_size if image_size is None else image_size,
        seed=config.seed if seed is None else seed,
        max_steps=config.max_steps if max_steps is None else max_steps,
    )


FROM_LABELS = TrainConfig(
    architecture="plain-cnn",
    epochs=44,
    batch_size=1024,
    optimizer="muon",
    lr=9.0,
    muon_lr=0.1,
    lr_schedule="linear",
    augmentations=("alternating-flip", "crop-4", "cutout-12"),
    weight_decay=0.012,
)
FROM_TEACHERS = replace(
    FROM_LABELS,
    batch_size=512,
    lr=4.0,
    muon_lr=0.06,
    augmentations=("alternating-flip", "crop-4", "mixup"),
    whiten_bias_epochs=0,
    start_from_teacher=True,
    distill_temperature=3.0,
    view_cycle=32,
)
MOSTLY_CLEAN = replace(  # at the end, on pictures as they come, and averaged
    FROM_TEACHERS,
    lr=2.0,
    muon_lr=0.03,
    augmentations=("alternating-flip", "crop-4"),
    degradations=("dark-4", "enlarged-4", "noise-4", "grey-4", "jpeg-12"),
    start_teaches=False,
)
FURTHER = replace(  # from a finished network, with a larger teacher, a little more damaged
    MOSTLY_CLEAN, degradations=("dark-4", "enlarged-4", "noise-4", "grey-10", "jpeg-25"), view_cycle=16
)
DAMAGED = ("augmix-40", "dark-10", "enlarged-10", "noise-20", "grey-10", "jpeg-33")
PICTURES = replace(
    FROM_LABELS,
    architecture="excited-cnn-small",
    epochs=60,
    batch_size=128,
    lr=8.0,
    muon_lr=0.12,
    augmentations=("alternating-flip", "crop-4"),
    degradations=MOSTLY_CLEAN.degradations,
    label_smoothing=0.1,
    image_size=64,
)

RECIPES: dict[str, TrainConfig] = {
    "cifar10": replace(
        MOSTLY_CLEAN,
        architecture="excited-cnn",
        epochs=80,
        teachers=("cifar10-excited", "cifar10-averaged", "cifar10-deep", "cifar10-deep-teacher", "cifar10-plain"),
        restarts=(40, 48, 56, 64, 72),
    ),
    "cifar10-further": replace(
        FURTHER,
        architecture="excited-cnn",
        epochs=32,
        teachers=("cifar10", "cifar10-teacher-wide"),
        restarts=(8, 16, 24),
        start_weight=2,
    ),
    "cifar10-excited": replace(
        FROM_TEACHERS,
        architecture="excited-cnn",
        epochs=72,
        degradations=DAMAGED,
        teachers=("cifar10-robust", "cifar10-averaged", "cifar10-deep", "cifar10-deep-teacher", "cifar10-plain"),
        start_teaches=False,
    ),
    "cifar10-averaged": replace(
        MOSTLY_CLEAN,
        architecture="plain-cnn-deep",
        epochs=64,
        degradations=("noise-4", "jpeg-12"),
        teachers=("cifar10-robust", "cifar10-deep", "cifar10-deep-teacher", "cifar10-plain"),
        restarts=(40, 48, 56),
        start_weight=3,
        view_cycle=None,
    ),
    "cifar10-robust": replace(
        FROM_TEACHERS,
        architecture="plain-cnn-deep",
        epochs=100,
        degradations=DAMAGED,
        teachers=("cifar10-deep", "cifar10-deep-teacher", "cifar10-plain"),
    ),
    "cifar10-deep": replace(
        FROM_TEACHERS,
        architecture="plain-cnn-deep",
        epochs=72,
        lr=6.0,
        degradations=("augmix-50", "grey-10", "jpeg-25"),
        teachers=("cifar10-deep-teacher", "cifar10-plain"),
        distill_temperature=1.0,
        view_cycle=16,
    ),
    "cifar10-plain": replace(
        FROM_TEACHERS,
        epochs=18,
        muon_lr=0.03,
        teachers=("cifar10-teacher-44", "cifar10-teacher-24"),
        distill_temperature=1.0,
        view_cycle=None,
    ),
    "cifar10-small": replace(
        MOSTLY_CLEAN,
        architecture="excited-cnn-small",
        epochs=64,
        teachers=("cifar10-small-robust", "cifar10-averaged", "cifar10-deep", "cifar10-deep-teacher", "cifar10-plain"),
        restarts=(24, 32, 40),
        view_cycle=None,
    ),
    "cifar10-small-further": replace(
        FURTHER,
        architecture="excited-cnn-small",
        epochs=64,
        teachers=("cifar10-small", "cifar10-further"),
        inherit_answers=True,
        restarts=(32, 40, 48, 56),
    ),
    "cifar10-small-robust": replace(
        FROM_TEACHERS,
        architecture="excited-cnn-small",
        epochs=112,
        muon_lr=0.1,
        degradations=("augmix-25", "noise-10", "grey-5", "jpeg-25"),
        whiten_bias_epochs=FROM_LABELS.whiten_bias_epochs,
        teachers=("cifar10-averaged", "cifar10-deep", "cifar10-deep-teacher", "cifar10-plain"),
        start_from_teacher=False,
    ),
    "cifar10-deep-teacher": replace(FROM_LABELS, architecture="plain-cnn-deep", epochs=40),
    "cifar10-teacher-wide": replace(FROM_LABELS, architecture="excited-cnn-wide", epochs=32),
    "cifar10-teacher-mixed": replace(
        FROM_LABELS,
        architecture="excited-cnn-wide",
        epochs=32,
        lr=6.0,
        muon_lr=0.06,
        augmentations=("alternating-flip", "crop-4", "cutmix-50"),
        whiten_bias_epochs=0,
        teachers=("cifar10-teacher-wide",),
        start_from_teacher=True,
        start_teaches=False,
    ),
    "cifar10-teacher-44": replace(FROM_LABELS, label_smoothing=0.1),
    "cifar10-teacher-24": replace(
        FROM_LABELS,
        epochs=24,
        lr=11.5,
        muon_lr=0.2,
        augmentations=("alternating-flip", "crop-4"),
        label_smoothing=0.1,
        weight_decay=0.0153,
    ),
    "pictures": PICTURES,
    "pictures-upright": replace(PICTURES, augmentations=("crop-4",)),  # for what has no mirror image, as letters
    "fast": replace(
        FROM_LABELS,
        architecture="speed-cnn",
        epochs=9.9,
        batch_size=1000,
        lr=10.0,
        muon_lr=0.2,
        muon_momentum=0.6,
        augmentations=("alternating-flip", "crop-2"),
        label_smoothing=0.2,
        weight_decay=0.0153,
        lookahead=True,
    ),
    "tutorial-adam": TrainConfig(
        architecture="tutorial-cnn",
        epochs=3,
        batch_size=32,
        optimizer="adam",
        lr=1e-3,
        lr_schedule="constant",
    ),
    "tutorial": TrainConfig(
        architecture="tutorial-cnn",
        epochs=24,
        batch_size=128,
        optimizer="adam",
        lr=2e-3,
        lr_schedule="warm-up-linear",
        augmentations=("alternating-flip", "crop-2"),
        lookahead=True,
    ),
}
