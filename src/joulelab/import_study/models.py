"""What models that others recorded are called here, and what can be said of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from joulelab.errors import UnknownModelError, UserError
from joulelab.import_study.rows import RecordedSpan
from joulelab.models.registry import build_model, canonical_name, require_torch

_TRUSTED = ("torchvision", "timm")
"""Sources of models beside the zoo. A name in another's table never has code of its own run."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What the models were made for.

    Attributes:
        shape: One sample: channels, height, width.
        num_classes: How many scores a model gives for it.
    """

    shape: Sequence[int]
    num_classes: int

    def __str__(self) -> str:
        return f"{'x'.join(map(str, self.shape))} and {self.num_classes} classes"


def study_names(rows: Iterable[RecordedSpan], notes: list[str]) -> dict[str, str]:
    """What each model of the table is called in the study: the registry's name where it has one.

    Args:
        rows: The spans.
        notes: What was taken for what is added here.
    """
    names: dict[str, str] = {}
    for row in rows:
        if row.model and row.model not in names:
            names[row.model] = _study_name(row.model)
    renamed = [f"{old} as {new}" for old, new in names.items() if old != new]
    if renamed:
        notes.append(f"taken as the registry's models: {', '.join(renamed)}")
    return names


def characteristics_of(
    rows: Sequence[RecordedSpan], names: Mapping[str, str], sample: Sample, notes: list[str]
) -> dict[str, dict[str, Any] | None]:
    """The characteristics of each model, by its name in the study; ``None`` where not known.

    What the table says of a model comes first; the registry says the rest where it has the model.

    Args:
        rows: The spans.
        names: See :func:`study_names`.
        sample: What the models were made for.
        notes: What is missing, and why, is added here.
    """
    found: dict[str, dict[str, Any] | None] = {}
    missing: dict[str, list[str]] = {}
    for name in dict.fromkeys(names.values()):
        given: dict[str, Any] = {}
        for row in rows:
            if row.model and names[row.model] == name:
                _merge(given, row)
        counted: dict[str, Any] = {}
        if not {"parameters", "macs"} <= given.keys():
            try:
                counted = _counted(name, sample)
            except UserError as error:
                missing.setdefault(str(error), []).append(name)
        found[name] = _whole(counted | given) or None
    if len(found) > sum(map(len, missing.values())):
        notes.append(f"characteristics are for a sample of {sample} (--input, --classes)")
    for why, models in missing.items():
        notes.append(f"characteristics of {', '.join(models)} stay empty: {why}")
    return found


def _study_name(name: str) -> str:
    try:
        known: str = canonical_name(name)
    except UserError:
        return name
    return known


def _merge(given: dict[str, Any], row: RecordedSpan) -> None:
    for key, value in row.characteristics.items():
        if given.setdefault(key, value) != value:
            raise UserError(
                f"{row.label}: {key} of {row.model} is {value}", why=f"before, it was {given[key]}"
            )


def _counted(name: str, sample: Sample) -> dict[str, Any]:
    """What the registry's model of that name has.

    Raises:
        UserError: PyTorch is not installed, or there is no such model that may be built.
    """
    try:
        source, colon, _ = canonical_name(name).partition(":")
    except UnknownModelError:
        raise UserError(
            "the registry has no such model",
            hint="give the spans columns parameters and macs to fill them in",
        ) from None
    if colon and source not in _TRUSTED:
        raise UserError("code that a table names is not run")
    require_torch()
    from joulelab.models.characteristics import characterize  # noqa: PLC0415

    model = build_model(name, num_classes=sample.num_classes, in_channels=sample.shape[0])
    return asdict(characterize(model, sample.shape, name=name))


def _whole(known: dict[str, Any]) -> dict[str, Any]:
    """The same with what follows from it."""
    if {"parameter_bytes", "buffer_bytes"} <= known.keys():
        known.setdefault("size_bytes", known["parameter_bytes"] + known["buffer_bytes"])
    if known.get("parameters") and "macs" in known:
        known["macs_per_parameter"] = known["macs"] / known["parameters"]
    return known
