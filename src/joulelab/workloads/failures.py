"""What PyTorch raises, as :class:`joulelab.errors.WorkloadError`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from joulelab.errors import JoulelabError, WorkloadError


@contextmanager
def torch_failures(doing: str) -> Iterator[None]:
    """Maps what is raised in the block; the cause stays attached.

    Args:
        doing: What the block does, as ``"the model's forward pass"``.

    Raises:
        WorkloadError: Of kind ``"out_of_memory"`` or ``"model_failed"``.
    """
    try:
        yield
    except JoulelabError:
        raise
    except Exception as error:
        if _is_out_of_memory(error):
            raise WorkloadError(
                f"out of memory in {doing}",
                kind="out_of_memory",
                why=first_line(error),
                hint="use a smaller batch_size or a smaller model",
            ) from error
        raise WorkloadError(
            f"{doing} failed", kind="model_failed", why=first_line(error)
        ) from error


def first_line(error: BaseException) -> str:
    """The error's class and the first line of its message that says anything.

    Example:
        >>> first_line(ValueError("bad shape\\nsecond line"))
        'ValueError: bad shape'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _is_out_of_memory(error: Exception) -> bool:
    # PyTorch's CPU allocator raises a plain RuntimeError; only its message tells.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
