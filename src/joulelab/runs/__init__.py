"""Records of runs: one type for wrapped commands, programs with a meter, and studies.

The words that commands share, so light that ``joulelab run`` can import them before its command.
"""

from __future__ import annotations

PHASES = ("data", "experiment", "train", "infer")
"""Phases of a project: data preparation, experiments, training and inference."""

_OLD_PHASES = {"experimentation": "experiment", "training": "train", "inference": "infer"}

FACTORS = (
    "batch_size",
    "precision",
    "memory_format",
    "compile",
    "optimizer",
    "input_path",
    "device",
    "dataset",
)
"""The factors of a study, except the model."""


def phase_name(text: str | None) -> str | None:
    """Return today's name of a phase; earlier versions wrote ``"training"`` for ``"train"``.

    Example:
        >>> phase_name("training"), phase_name("data"), phase_name(None)
        ('train', 'data', None)
    """
    return None if text is None else _OLD_PHASES.get(text, text)
