"""Measure what the frameworks' callbacks add to the steps of a training.

The model is a single layer, so a step is little more than the framework's own work; in a longer
step, the same µs are a smaller share. Slices of a few steps with and without the callback's hooks
alternate within one training, so both see the same other work on the machine.
:mod:`benchmarks.slowdown` measures recording itself and the transfer of spans.

``python -m benchmarks.integrations [--pairs N]`` prints a table. Needs joulelab[integrations].
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import tempfile
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch

import joulelab

RESAMPLES = 2000
SLICE_STEPS = 20
BATCH, FEATURES = 8, 8


class Slices:
    """Decides which steps of a training have spans, and records when each began.

    Args:
        pairs: Number of pairs of slices, each in random order.
    """

    def __init__(self, pairs: int) -> None:
        order = random.Random(1)
        self.on = [on for _ in range(pairs) for on in order.sample((False, True), 2)]
        self.steps = len(self.on) * SLICE_STEPS
        self.starts: list[int] = []

    def begin_step(self) -> None:
        self.starts.append(time.perf_counter_ns())

    @property
    def is_on(self) -> bool:
        """Whether the current step has spans."""
        return self.on[min(len(self.starts) // SLICE_STEPS, len(self.on) - 1)]

    def times_us(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the times of a step without and with spans, for all pairs but the first.

        The first step of a slice is excluded, because the callback's hooks are on both sides of
        the start of a step.
        """
        times = np.diff(np.array(self.starts[: self.steps + 1], float)) / 1000
        times = np.append(times, times[-1])[: self.steps].reshape(-1, SLICE_STEPS)
        means = np.median(times[:, 1:-1], axis=1)
        on = np.array(self.on)
        return means[~on][1:], means[on][1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=200, help="number of pairs of slices")
    pairs = parser.parse_args().pairs
    os.environ.setdefault("KERAS_BACKEND", "torch")
    warnings.simplefilter("ignore")
    print("| | step (µs) | added by the callback (µs) | ratio |\n|---|---|---|---|")
    for name, train in (
        ("PyTorch, `joulelab.epochs`", plain),
        ("Lightning", lightning),
        ("Transformers", transformers),
        ("Keras", keras),
    ):
        slices = Slices(pairs)
        train(slices)
        without, having = slices.times_us()
        more, ratio = interval(having - without), interval(having / without)
        print(
            f"| {name} | {np.median(without):.0f} | {more[0]:.1f} ({more[1]:.1f} to {more[2]:.1f}) "
            f"| {ratio[0]:.4f} ({ratio[1]:.4f} to {ratio[2]:.4f}) |",
            flush=True,
        )


def gated(callback: type, slices: Slices, *hooks: str) -> type:
    """Derive a callback that skips these hooks in slices without spans."""

    def gate(name: str) -> Callable[..., None]:
        hook = getattr(callback, name)

        def call(self: object, *args: object, **options: object) -> None:
            if slices.is_on:
                hook(self, *args, **options)

        return call

    return type("Gated", (callback,), {name: gate(name) for name in hooks})


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Return the median over rounds and its 95 % interval by the percentile bootstrap."""
    rng = np.random.default_rng(1)
    medians = np.median(rng.choice(values, (RESAMPLES, len(values))), axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return float(np.median(values)), float(low), float(high)


def plain(slices: Slices) -> None:
    layer = torch.nn.Linear(FEATURES, 1)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    x = torch.zeros(BATCH, FEATURES)

    def step() -> None:
        slices.begin_step()
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()

    loop = joulelab.epochs(range(1), quiet=True)
    for _ in loop:
        while len(slices.starts) < slices.steps:
            batches = range(SLICE_STEPS)
            for _ in loop.steps(batches) if slices.is_on else batches:
                step()


def lightning(slices: Slices) -> None:
    from lightning import pytorch as pl  # noqa: PLC0415

    from joulelab.integrations.lightning import EnergyCallback  # noqa: PLC0415

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Model(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(FEATURES, 1)

        def training_step(self, x: torch.Tensor, _: int) -> torch.Tensor:
            slices.begin_step()
            return self.layer(x).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    callback = gated(EnergyCallback, slices, "on_train_batch_start", "on_train_batch_end")
    pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback()],
    ).fit(Model(), torch.utils.data.DataLoader(torch.zeros(slices.steps * BATCH, FEATURES), BATCH))


def transformers(slices: Slices) -> None:
    import transformers as hf  # noqa: PLC0415

    from joulelab.integrations.transformers import EnergyCallback  # noqa: PLC0415

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(FEATURES, 1)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            slices.begin_step()
            return {"loss": self.layer(x).square().mean()}

    with tempfile.TemporaryDirectory() as directory:
        settings = hf.TrainingArguments(
            output_dir=directory,
            num_train_epochs=1,
            per_device_train_batch_size=BATCH,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        data = [{"x": torch.zeros(FEATURES)}] * (slices.steps * BATCH)
        trainer = hf.Trainer(Model(), settings, train_dataset=data)
        trainer.remove_callback(hf.PrinterCallback)
        trainer.add_callback(gated(EnergyCallback, slices, "on_step_begin", "on_step_end")(trainer))
        trainer.train()


def keras(slices: Slices) -> None:
    import keras as framework  # noqa: PLC0415

    from joulelab.integrations.keras import EnergyCallback  # noqa: PLC0415

    class Clock(framework.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
            slices.begin_step()

    model = framework.Sequential([framework.layers.Input((FEATURES,)), framework.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse")
    x = np.zeros((slices.steps * BATCH, FEATURES), "float32")
    callback = gated(EnergyCallback, slices, "on_train_batch_begin", "on_train_batch_end")
    model.fit(x, x[:, :1], batch_size=BATCH, epochs=1, verbose=0, callbacks=[Clock(), callback()])


if __name__ == "__main__":
    main()
