"""Types of NumPy's arrays."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]
Indices = NDArray[np.intp]


def sums_around(values: Floats | Bools, before: int, after: int) -> Floats:
    """Return the sum of some values before each one, and of some from it on.

    Example:
        >>> sums_around(np.array([1.0, 2, 4, 8]), 1, 2).tolist()
        [3.0, 7.0, 14.0, 12.0]
    """
    running = np.pad(np.append(0, np.cumsum(values)), (before, after), mode="edge")
    return np.asarray(running[before + after :][: values.size] - running[: values.size])
