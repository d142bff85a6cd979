"""Predict the time and energy of training and inference without running them.

Example:
    >>> found = predict([Case("LeNet", "infer", 128, (3, 32, 32))], load_profile("h100"))
    >>> found[0].energy_low_j < found[0].energy_per_step_j < found[0].energy_high_j
    True
"""

from joulelab.predict.hardware_profile import HardwareProfile, load_profile
from joulelab.predict.prediction import Prediction, predict, rank
from joulelab.predict.steps import Case

__all__ = [
    "Case",
    "HardwareProfile",
    "Prediction",
    "load_profile",
    "predict",
    "rank",
]
