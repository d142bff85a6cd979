"""Train and infer image classifiers, and announce it to an observer.

Training announces ``warmup`` (``phase``), then each ``epoch`` (``phase``, ``index``) followed by a
``validate`` (``phase``, ``index``) if requested. Inference announces ``warmup``, then an ``epoch``
for each pass over the test set. The device finishes the work of a span before the span ends.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import cycle, islice
from typing import Any

import torch

from joulelab.errors import UserError
from joulelab.workloads.batch_loop import (
    Clock,
    EpochRunner,
    Model,
    Outcome,
    PhaseLength,
    Step,
    classify,
    new_optimizer,
    restored,
    run_batches,
)
from joulelab.workloads.images import ImageData
from joulelab.workloads.input_paths import (
    Batch,
    BatchSource,
    Bounds,
    DeviceBatches,
    LoaderBatches,
    batch_bounds,
)
from joulelab.workloads.phases import (
    EpochResult,
    InferSettings,
    Observer,
    PhaseResult,
    TrainSettings,
    announced,
)
from joulelab.workloads.torch_runtime import (
    number_formats,
    peak_bytes,
    reset_peak,
    resolve_device,
    torch_failures,
)

WARMUP_STREAM = 0
"""Random stream of the warm-up; epoch ``i`` has stream ``i + 1``."""


def train(
    model: torch.nn.Module,
    data: ImageData,
    settings: TrainSettings,
    observer: Observer | None,
    *,
    announce_steps: bool = False,
    enough: Callable[[], bool] = lambda: False,
    is_over: Callable[[], bool] = lambda: False,
    clock: Clock = time.monotonic,
) -> PhaseResult:
    """Train the model in place, on cross-entropy.

    On the CPU, the same model, data, settings and number of threads give the same losses bit for
    bit, whatever ran before in the process. The warm-up restores parameters, buffers, optimiser and
    random numbers (but not state that a model keeps elsewhere). The random generators of the CPU
    and of the device are restored at the end.

    The model maps (B, C, H, W) to (B, classes); it moves to the device and stays there. With
    ``announce_steps``, each ``step`` is announced too; on a CUDA device such a span covers the
    queueing of the work, not the work itself. ``enough`` is called before each epoch but the first,
    ``is_over`` after each step, and either ends the training if it returns true.

    Raises:
        WorkloadError: Out of memory, the model fails, the loss is not finite, or the loader fails.
        UserError: The device does not exist or lacks the precision, the batch is larger than the
            training set, or the model has no trainable parameter.
    """
    device = resolve_device(settings.device)
    train_bounds = _bounds(settings.batch_size, len(data.train_labels), data, training=True)
    test_bounds = batch_bounds(len(data.test_labels), settings.batch_size)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError("the model has no trainable parameter", hint="unfreeze some, or infer")
    length = PhaseLength(settings.epochs, settings.steps, settings.seconds, clock, is_over)
    epochs: list[EpochResult] = []
    with _prepared(model, data, settings, device) as (runner, source):

        def evaluate(batch: Batch) -> Outcome:
            with torch.no_grad():
                return classify(runner, batch, data.num_classes, settings.precision)

        if settings.warmup_steps:
            with announced(observer, "warmup", phase="train"), restored(model):
                bounds = _warmup_bounds(train_bounds, settings.warmup_steps)
                batches = source.train_batches(WARMUP_STREAM, bounds)
                step = _training_step(model, runner, data.num_classes, settings)
                model.train()
                run_batches(batches, step, device)
                if settings.validate:
                    model.eval()
                    batches = source.test_batches(_warmup_bounds(test_bounds, 1))
                    run_batches(batches, evaluate, device)
                del step, batches

        torch.manual_seed(settings.seed)
        step = _training_step(model, runner, data.num_classes, settings)
        reset_peak(device)
        epoch = EpochRunner(
            "train", device, length, observer, announce_steps, lambda: source.waited_s
        )
        while not (length.reached or (epochs and enough())):
            index = len(epochs)
            model.train()
            batches = source.train_batches(index + 1, train_bounds)
            result = epoch.run(index, batches, len(train_bounds), step)
            if settings.validate:
                model.eval()
                with announced(observer, "validate", phase="train", index=index):
                    validated = run_batches(source.test_batches(test_bounds), evaluate, device)
                    accuracy_pct = validated.accuracy_pct()
                result = dataclasses.replace(result, accuracy_pct=accuracy_pct)
            epochs.append(result)
        return PhaseResult("train", tuple(epochs), peak_bytes(device), settings.cudnn_benchmark)


def infer(
    model: torch.nn.Module,
    data: ImageData,
    settings: InferSettings,
    observer: Observer | None,
    *,
    announce_steps: bool = False,
    is_over: Callable[[], bool] = lambda: False,
    clock: Clock = time.monotonic,
) -> PhaseResult:
    """Infer the test set, pass by pass, in evaluation mode and without gradients.

    Arguments and errors are those of :func:`train`.
    """
    device = resolve_device(settings.device)
    bounds = _bounds(settings.batch_size, len(data.test_labels), data, training=False)
    length = PhaseLength(settings.passes, settings.steps, settings.seconds, clock, is_over)
    epochs: list[EpochResult] = []
    with _prepared(model, data, settings, device) as (runner, source), torch.inference_mode():

        def step(batch: Batch) -> Outcome:
            return classify(runner, batch, data.num_classes, settings.precision)

        model.eval()
        if settings.warmup_steps:
            with announced(observer, "warmup", phase="infer"):
                batches = source.test_batches(_warmup_bounds(bounds, settings.warmup_steps))
                run_batches(batches, step, device)
        reset_peak(device)
        epoch = EpochRunner(
            "infer", device, length, observer, announce_steps, lambda: source.waited_s
        )
        while not length.reached:
            epochs.append(epoch.run(len(epochs), source.test_batches(bounds), len(bounds), step))
        return PhaseResult("infer", tuple(epochs), peak_bytes(device), settings.cudnn_benchmark)


@contextmanager
def _prepared(
    model: torch.nn.Module,
    data: ImageData,
    settings: TrainSettings | InferSettings,
    device: torch.device,
) -> Iterator[tuple[Model, BatchSource]]:
    """Move the model to its device, create the input path, and restore global settings."""
    channels_last = settings.memory_format == "channels_last"
    batch_format = torch.channels_last if channels_last else torch.contiguous_format
    with ExitStack() as stack:
        stack.enter_context(
            number_formats(settings.precision, device, cudnn_benchmark=settings.cudnn_benchmark)
        )
        stack.enter_context(
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
        )
        torch.manual_seed(0)
        with torch_failures("moving model and data to the device"):
            model.to(device).to(memory_format=batch_format)
            source = _source(data, settings, device, batch_format)
        runner: Model = model
        if settings.compile:
            torch.compiler.reset()
            # Compile one program per batch size; the warm-up runs all of them.
            runner = torch.compile(model, dynamic=False)
        yield runner, source


def _source(
    data: ImageData,
    settings: TrainSettings | InferSettings,
    device: torch.device,
    batch_format: torch.memory_format,
) -> BatchSource:
    options: dict[str, Any] = {"batch_format": batch_format}
    if isinstance(settings, TrainSettings):
        options |= {"augment": settings.augment, "seed": settings.seed}
    if settings.input_path == "loader":
        return LoaderBatches(data, device, workers=settings.loader_workers, **options)
    return DeviceBatches(data, device, training=isinstance(settings, TrainSettings), **options)


def _training_step(
    model: torch.nn.Module, runner: Model, num_classes: int, settings: TrainSettings
) -> Step:
    optimizer = new_optimizer(model, settings)

    def step(batch: Batch) -> Outcome:
        optimizer.zero_grad(set_to_none=True)
        outcome = classify(runner, batch, num_classes, settings.precision)
        assert outcome.loss is not None
        with torch_failures("the backward pass"):
            torch.autograd.backward(outcome.loss)
            optimizer.step()
        return outcome

    return step


def _warmup_bounds(bounds: Bounds, steps: int) -> Bounds:
    """Return ``steps`` batches, and one of the last batch's size if that is different."""
    chosen = list(islice(cycle(bounds), steps))
    sizes = {stop - start for start, stop in chosen}
    last = bounds[-1]
    return chosen if last[1] - last[0] in sizes else [*chosen, last]


def _bounds(batch_size: int, count: int, data: ImageData, *, training: bool) -> Bounds:
    if batch_size > count:
        part = "training" if training else "test"
        raise UserError(
            f"batch_size {batch_size} is larger than the {part} set of {data.name}",
            why=f"it has {count} images",
            hint=f"use a batch_size of at most {count}",
        )
    return batch_bounds(count, batch_size, fold_single=training)
