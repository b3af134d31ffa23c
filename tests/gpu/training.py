"""Training on the GPU: what it costs, and that a run is not tied to the device that it was started on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from tests.gpu.report import Row, at_least, holds
from tests.gpu.steps import ROOT, Skip
from tests.gpu.subject import Context, generated

RECIPE, ACCURACY, PUBLISHED_S = "fast", 94.0, 2.59
PROBE = "cifar10-teacher-24"  # a recipe with everything in it but teachers
STEPS, FEW, FEW_IMAGES = 12, 3, 64


def portable(context: Context) -> Iterator[Row]:
    """A few steps on this device, watched; then the checkpoint is opened where there is no GPU."""
    import torch

    from training import checkpoint, device, loop
    from training.data import Split, TrainingData
    from training.recipes import RECIPES
    from training.run import Run

    chosen = device.choose_device("auto")
    steps, config = STEPS, RECIPES[PROBE]
    if context.options.small or chosen.type == "cpu":
        steps, config = FEW, replace(config, batch_size=FEW_IMAGES)
    images = torch.from_numpy(generated(config.batch_size * 2))
    split = Split(images, torch.arange(len(images)) % 10)
    data = TrainingData(split, Split(images[:64], split.labels[:64]), tuple("abcdefghij"))
    precision = device.choose_precision("auto", chosen)
    run = Run(PROBE, config, data, chosen, precision)
    yield Row("device and number format", f"{chosen.type}, {precision.value}")
    filters = next(weight for weight in run.model.parameters() if weight.ndim == 4 and weight.shape[1] > 3)
    yield holds("weights are channels last", filters.is_contiguous(memory_format=torch.channels_last))
    run.model.train()
    indices = torch.arange(config.batch_size)
    float(loop.train_one_step(run, indices, 0))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if chosen.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        began = time.perf_counter()
        for _ in range(steps):
            loss = loop.train_one_step(run, indices, 0)
    if chosen.type == "cuda":
        torch.cuda.set_sync_debug_mode("default")
    float(loss)  # only now have the steps been taken: so far a GPU has been asked to
    seconds = time.perf_counter() - began
    if chosen.type == "cuda":
        yield Row("times the CPU waits for the GPU", len(caught) / steps, "per step")
    yield Row("images", steps * config.batch_size / seconds, "images/s", note=f"{steps} steps")
    folder = context.work / "portable"
    checkpoint.save(run.checkpoint(), folder)
    opened = subprocess.run(
        [sys.executable, "-c", OPEN, str(folder)], cwd=ROOT, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    yield holds("its checkpoint opens without a GPU", opened.stdout.strip() == f"{run.step}", opened.stderr[-200:])


OPEN = "import sys, pathlib; from training import checkpoint; print(checkpoint.load(pathlib.Path(sys.argv[1])).step)"


def fast(context: Context) -> Iterator[Row]:
    """Several whole runs of the recipe that is made for it, by the command line."""
    import torch

    from training.recipes import RECIPES

    if not torch.cuda.is_available():  # ONNX Runtime's build says nothing of that: nothing of it is used here
        raise Skip("torch has no CUDA here")
    if RECIPE not in RECIPES:
        raise Skip(f"there is no recipe {RECIPE}")
    if not context.options.data or context.options.data.endswith(".npz"):
        raise Skip("it needs the whole of CIFAR-10: --data FOLDER")
    runs = context.work / "trainings"
    if context.rows.get("training/fast") != []:  # else the last attempt broke off: go on with what it has trained
        shutil.rmtree(runs, ignore_errors=True)
    command = [
        sys.executable, "-m", "training", "trials", RECIPE, "--seeds", str(context.options.trainings),
        "--device", "cuda", "--split", "validation", "--data", context.options.data, "--runs", str(runs),
    ]  # fmt: skip
    seeds = re.findall(
        r"^seed \d+  one view ([\d.]+)%  six views ([\d.]+)%  in ([\d,.]+) s$", said_by(command), re.MULTILINE
    )
    one, six, times = np.array([[float(number.replace(",", "")) for number in seed] for seed in seeds]).T
    note = f"{len(times)} runs, the first {times[0]:.1f} s; steps alone, without validation and checkpoints"
    yield Row("time, mean", float(times.mean()), "s", spread=float(np.ptp(times) / times.mean()), note=note)
    note = "of 5,000 images held out; on as many fewer it was trained"
    yield at_least(ACCURACY, "accuracy by six views, mean", float(six.mean()), "%", note=note)
    yield Row("accuracy by one view, mean", float(one.mean()), "%", note=note)
    yield Row("published time", PUBLISHED_S, "s", note="airbench94 of K. Jordan, 2024, on an A100, multi-view")


def said_by(command: list[str]) -> str:
    """Its standard output; where it fails, what it said last becomes the error, or else nobody would ever know."""
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if ran.returncode:
        last = " | ".join(line.strip() for line in ran.stderr.splitlines()[-3:])
        raise ChildProcessError(f"it ended with status {ran.returncode}: {last[-400:]}")
    return ran.stdout
