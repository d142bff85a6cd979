"""What a phase gives back. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochResult:
    """One pass over the training set, or over the test set in inference.

    Attributes:
        index: From 0.
        samples: Images that went through the model.
        steps: Batches.
        duration_s: On the host's clock, with the device's work finished; without validation.
        loss: Mean cross-entropy over the pass's images; in training, before each step's update.
        train_accuracy_pct: On the (augmented) training images as they went by; ``None`` in
            inference.
        accuracy_pct: On the test set; ``None`` in training without validation.
        data_wait_s: Time that the thread waited for the loader; ``None`` on the device path.
        complete: Whether every image of the set went through.
    """

    index: int
    samples: int
    steps: int
    duration_s: float
    loss: float
    train_accuracy_pct: float | None
    accuracy_pct: float | None
    data_wait_s: float | None
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseResult:
    """A whole phase, warm-up and validation left out.

    Attributes:
        phase: ``"train"`` or ``"infer"``.
        epochs: In order.
        vram_peak_bytes: The most that was allocated on the CUDA device at once, the data set
            included on the device path (:func:`torch.cuda.max_memory_allocated`); ``None`` on the
            CPU.
        cudnn_benchmark: Whether cuDNN searched for its fastest algorithms.
    """

    phase: str
    epochs: tuple[EpochResult, ...]
    vram_peak_bytes: int | None
    cudnn_benchmark: bool

    @property
    def samples(self) -> int:
        """Images that went through the model."""
        return sum(epoch.samples for epoch in self.epochs)

    @property
    def steps(self) -> int:
        """Batches."""
        return sum(epoch.steps for epoch in self.epochs)

    @property
    def duration_s(self) -> float:
        """Time in epochs."""
        return sum(epoch.duration_s for epoch in self.epochs)

    @property
    def data_wait_s(self) -> float | None:
        """Time that the thread waited for the loader; ``None`` on the device path."""
        waits = [epoch.data_wait_s for epoch in self.epochs if epoch.data_wait_s is not None]
        return sum(waits) if waits else None

    @property
    def data_wait_share(self) -> float | None:
        """:attr:`data_wait_s` over :attr:`duration_s`, in [0, 1]; ``None`` on the device path."""
        if self.data_wait_s is None or self.duration_s == 0:
            return None
        return self.data_wait_s / self.duration_s

    @property
    def loss(self) -> float:
        """Of the last epoch."""
        return self.epochs[-1].loss

    @property
    def accuracy_pct(self) -> float | None:
        """Of the last epoch, on the test set; ``None`` where it was not measured."""
        return self.epochs[-1].accuracy_pct
