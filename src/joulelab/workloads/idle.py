"""Doing nothing, for the idle baseline (the paper's T_m)."""

from __future__ import annotations

import time
from collections.abc import Callable

from joulelab.errors import UserError
from joulelab.workloads.observer import Observer, announced


def idle(
    seconds: float,
    observer: Observer,
    *,
    device: str = "cpu",
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Announces ``idle``, sleeps, and announces its end.

    A GPU that holds a CUDA context draws more than one without. With a CUDA device the context is
    made before the announcement, so that the baseline is that of the runs it is taken from.

    Args:
        seconds: How long; > 0.
        observer: Told of the one span ``idle``.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        sleep: Blocks for so many seconds without working.

    Raises:
        UserError: ``seconds`` is not positive, or the device is not there.
    """
    if not seconds > 0:
        raise UserError(f"idle for {seconds} s", why="the time must be positive")
    if device != "cpu":
        _make_context(device)
    with announced(observer, "idle"):
        sleep(seconds)


def _make_context(name: str) -> None:
    import torch  # noqa: PLC0415  (idle on the CPU needs no torch)

    from joulelab.workloads.devices import resolve_device, synchronize  # noqa: PLC0415

    device = resolve_device(name)
    torch.zeros(1, device=device)
    synchronize(device)
