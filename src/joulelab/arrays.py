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
    n = values.size
    running = np.zeros(before + 1 + n + after, np.result_type(values, np.intp))
    np.cumsum(values, out=running[before + 1 :][:n])
    running[before + 1 + n :] = running[before + n]
    return np.asarray(running[before + after :][:n] - running[:n])
