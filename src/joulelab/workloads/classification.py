"""Training and inference of image classifiers, announced to an observer.

Announced are, in this order, ``warmup`` (``phase``), and then for training an ``epoch`` (``phase``,
``index``) and, where it is asked for, a ``validate`` (``phase``, ``index``) after each; for
inference an ``epoch`` for each pass over the test set. The device has finished the work of a span
before its end is announced.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import cycle, islice

import torch

from joulelab.errors import UserError
from joulelab.workloads.batches import (
    Batch,
    Batches,
    BatchSource,
    Bounds,
    DeviceBatches,
    batch_bounds,
)
from joulelab.workloads.devices import numerics, resolve_device, synchronize
from joulelab.workloads.engine import (
    Clock,
    Length,
    Model,
    Outcome,
    Step,
    Tally,
    classify,
    run_batches,
)
from joulelab.workloads.failures import torch_failures
from joulelab.workloads.images import ImageData
from joulelab.workloads.observer import Observer, announced
from joulelab.workloads.results import EpochResult, PhaseResult
from joulelab.workloads.settings import InferSettings, TrainSettings

WARMUP_STREAM = 0
"""The random stream of the warm-up; epoch ``i`` has stream ``i + 1``."""


def train(
    model: torch.nn.Module,
    data: ImageData,
    settings: TrainSettings,
    observer: Observer,
    *,
    announce_steps: bool = False,
    enough: Callable[[], bool] = lambda: False,
    clock: Clock = time.monotonic,
) -> PhaseResult:
    """Trains the model in place, on cross-entropy.

    On the CPU the same model, data, settings and number of threads give the same losses bit for
    bit, whatever ran before in the process. The warm-up leaves parameters, buffers, optimiser and
    random numbers as they were. (State that a model keeps outside its parameters and buffers is
    its own affair.) The random generators of the CPU and of the
    device are put back at the end.

    Args:
        model: Takes (B, C, H, W) and gives (B, classes). It is moved to the device and left there.
        data: What to train on.
        settings: How.
        observer: Told of warm-up, epochs and validations.
        announce_steps: Whether each ``step`` is announced too, within its epoch. On a CUDA device
            such a span holds the queueing of the work and not its doing.
        enough: Asked before each epoch but the first whether to stop.
        clock: Seconds that never go back.

    Raises:
        WorkloadError: Out of memory, the model fails, the loss is not finite, or the loader fails.
        UserError: The device is not there or lacks the precision, the batch is larger than the
            training set, or the model has nothing to train.
    """
    device = resolve_device(settings.device)
    train_bounds = _bounds(settings.batch_size, len(data.train_labels), data, training=True)
    test_bounds = batch_bounds(len(data.test_labels), settings.batch_size)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError("the model has no trainable parameter", hint="unfreeze some, or infer")
    length = Length(settings.epochs, settings.steps, settings.seconds, clock)
    epochs: list[EpochResult] = []
    with _prepared(model, data, settings, device) as (runner, source):
        autocast = settings.precision == "bf16"

        def evaluate(batch: Batch) -> Outcome:
            with torch.no_grad():
                return classify(runner, batch, data.num_classes, autocast=autocast)

        if settings.warmup_steps:
            with announced(observer, "warmup", phase="train"), _untouched(model):
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
        _reset_peak(device)
        while not (length.reached or (epochs and enough())):
            index = len(epochs)
            model.train()
            tally, duration_s, wait_s = _epoch(
                source.train_batches(index + 1, train_bounds),
                step,
                source,
                device,
                length,
                observer,
                phase="train",
                index=index,
                announce_steps=announce_steps,
            )
            loss = tally.mean_loss()
            accuracy_pct = None
            if settings.validate:
                model.eval()
                with announced(observer, "validate", phase="train", index=index):
                    batches = source.test_batches(test_bounds)
                    accuracy_pct = run_batches(batches, evaluate, device).accuracy_pct()
            epochs.append(
                EpochResult(
                    index=index,
                    samples=tally.samples,
                    steps=tally.steps,
                    duration_s=duration_s,
                    loss=loss,
                    train_accuracy_pct=tally.accuracy_pct(),
                    accuracy_pct=accuracy_pct,
                    data_wait_s=wait_s,
                    complete=tally.steps == len(train_bounds),
                )
            )
        return _phase("train", epochs, device, settings)


def infer(
    model: torch.nn.Module,
    data: ImageData,
    settings: InferSettings,
    observer: Observer,
    *,
    announce_steps: bool = False,
    clock: Clock = time.monotonic,
) -> PhaseResult:
    """Infers the test set, pass by pass, in evaluation mode and without gradients.

    Args:
        model: Takes (B, C, H, W) and gives (B, classes). It is moved to the device and left there.
        data: Its test set is used.
        settings: How.
        observer: Told of warm-up and passes (as ``epoch``).
        announce_steps: As for :func:`train`.
        clock: Seconds that never go back.

    Raises:
        WorkloadError: Out of memory, the model fails, the loss is not finite, or the loader fails.
        UserError: The device is not there or lacks the precision, or the batch is larger than the
            test set.
    """
    device = resolve_device(settings.device)
    bounds = _bounds(settings.batch_size, len(data.test_labels), data, training=False)
    length = Length(settings.passes, settings.steps, settings.seconds, clock)
    epochs: list[EpochResult] = []
    with _prepared(model, data, settings, device) as (runner, source), torch.inference_mode():
        autocast = settings.precision == "bf16"

        def step(batch: Batch) -> Outcome:
            return classify(runner, batch, data.num_classes, autocast=autocast)

        model.eval()
        if settings.warmup_steps:
            with announced(observer, "warmup", phase="infer"):
                batches = source.test_batches(_warmup_bounds(bounds, settings.warmup_steps))
                run_batches(batches, step, device)
        _reset_peak(device)
        while not length.reached:
            index = len(epochs)
            tally, duration_s, wait_s = _epoch(
                source.test_batches(bounds),
                step,
                source,
                device,
                length,
                observer,
                phase="infer",
                index=index,
                announce_steps=announce_steps,
            )
            epochs.append(
                EpochResult(
                    index=index,
                    samples=tally.samples,
                    steps=tally.steps,
                    duration_s=duration_s,
                    loss=tally.mean_loss(),
                    train_accuracy_pct=None,
                    accuracy_pct=tally.accuracy_pct(),
                    data_wait_s=wait_s,
                    complete=tally.steps == len(bounds),
                )
            )
        return _phase("infer", epochs, device, settings)


def _epoch(
    batches: Batches,
    step: Step,
    source: BatchSource,
    device: torch.device,
    length: Length,
    observer: Observer,
    *,
    phase: str,
    index: int,
    announce_steps: bool,
) -> tuple[Tally, float, float | None]:
    """One announced epoch: its sums, its duration and its wait for data in seconds."""
    waited_before_s = source.waited_s
    with announced(observer, "epoch", phase=phase, index=index):
        length.epoch_begins()
        tally = run_batches(
            batches,
            step,
            device,
            length=length,
            observer=observer if announce_steps else None,
            phase=phase,
        )
        duration_s = length.epoch_ends()
    if source.waited_s is None or waited_before_s is None:
        return tally, duration_s, None
    return tally, duration_s, source.waited_s - waited_before_s


@contextmanager
def _prepared(
    model: torch.nn.Module,
    data: ImageData,
    settings: TrainSettings | InferSettings,
    device: torch.device,
) -> Iterator[tuple[Model, BatchSource]]:
    """The model on its device, compiled or not, and the input path; puts global settings back."""
    batch_format = (
        torch.channels_last
        if settings.memory_format == "channels_last"
        else torch.contiguous_format
    )
    with ExitStack() as stack:
        stack.enter_context(
            numerics(settings.precision, device, cudnn_benchmark=settings.cudnn_benchmark)
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
            # One program for each batch size: the warm-up meets them all.
            runner = torch.compile(model, dynamic=False)
        yield runner, source


def _source(
    data: ImageData,
    settings: TrainSettings | InferSettings,
    device: torch.device,
    batch_format: torch.memory_format,
) -> BatchSource:
    augment, seed = False, 0
    if isinstance(settings, TrainSettings):
        augment, seed = settings.augment, settings.seed
    if settings.input_path == "loader":
        from joulelab.workloads.loader import LoaderBatches  # noqa: PLC0415  (slow to import)

        return LoaderBatches(
            data,
            device,
            batch_format=batch_format,
            workers=settings.loader_workers,
            augment=augment,
            seed=seed,
        )
    return DeviceBatches(
        data,
        device,
        batch_format=batch_format,
        training=isinstance(settings, TrainSettings),
        augment=augment,
        seed=seed,
    )


def _training_step(
    model: torch.nn.Module, runner: Model, num_classes: int, settings: TrainSettings
) -> Step:
    """A step with a fresh optimiser, for the parameters that are not frozen."""
    optimizer = _optimizer(model, settings)
    autocast = settings.precision == "bf16"

    def step(batch: Batch) -> Outcome:
        optimizer.zero_grad(set_to_none=True)
        outcome = classify(runner, batch, num_classes, autocast=autocast)
        with torch_failures("the backward pass"):
            torch.autograd.backward(outcome.loss)
            optimizer.step()
        return outcome

    return step


def _optimizer(model: torch.nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rate, decay = settings.learning_rate, settings.weight_decay
    match settings.optimizer:
        case "sgd":
            return torch.optim.SGD(
                parameters, lr=rate, momentum=settings.momentum, weight_decay=decay
            )
        case "adam":
            return torch.optim.Adam(parameters, lr=rate, weight_decay=decay)
        case _:
            return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)


@contextmanager
def _untouched(model: torch.nn.Module) -> Iterator[None]:
    """Puts parameters and buffers back as they were, and drops gradients."""
    tensors = [*model.parameters(), *model.buffers()]
    # Kept on the host: the device's memory stays as the workload needs it.
    saved = [tensor.detach().to("cpu", copy=True) for tensor in tensors]
    yield
    with torch.no_grad():
        for tensor, before in zip(tensors, saved, strict=True):
            tensor.copy_(before)
    model.zero_grad(set_to_none=True)


def _warmup_bounds(bounds: Bounds, steps: int) -> Bounds:
    """``steps`` batches, and one of the last's size where that differs: it is searched for too."""
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


def _reset_peak(device: torch.device) -> None:
    synchronize(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _phase(
    phase: str,
    epochs: list[EpochResult],
    device: torch.device,
    settings: TrainSettings | InferSettings,
) -> PhaseResult:
    on_cuda = device.type == "cuda"
    return PhaseResult(
        phase=phase,
        epochs=tuple(epochs),
        vram_peak_bytes=torch.cuda.max_memory_allocated(device) if on_cuda else None,
        cudnn_benchmark=settings.cudnn_benchmark,
    )
