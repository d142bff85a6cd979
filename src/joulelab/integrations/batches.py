"""How many samples a batch has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def first_length(batch: Any) -> float:
    """The length of the first array in a batch, as collated by default; NaN where there is none.

    Example:
        >>> import numpy as np
        >>> first_length({"text": ["a", "b"], "x": (np.zeros((2, 3)), np.zeros(2))})
        2.0
        >>> first_length(object())
        nan
    """
    shape = getattr(batch, "shape", None)
    if isinstance(shape, tuple):
        return float(shape[0]) if shape else math.nan
    if isinstance(batch, Mapping):
        batch = tuple(batch.values())
    if not isinstance(batch, Sequence) or isinstance(batch, (str, bytes)):
        return math.nan
    lengths = (first_length(part) for part in batch if not isinstance(part, (str, bytes)))
    return next((length for length in lengths if not math.isnan(length)), math.nan)
