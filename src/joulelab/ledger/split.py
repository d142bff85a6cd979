"""How a project's energy splits over the phases of its life, beside what others found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from joulelab.uncertain import Ratio, UncertainValue, share

EXPERIMENTATION_AND_TRAINING = "experimentation and training"


@dataclass(frozen=True, slots=True)
class Reference:
    """A split that was published.

    Attributes:
        of: What was split, in words.
        parts: Share of each part, and the phases that it is made of.
    """

    of: str
    parts: Mapping[str, tuple[float, tuple[str, ...]]]


REFERENCES = (
    Reference(
        "energy of the whole pipeline",
        {
            "data": (0.31, ("data",)),
            EXPERIMENTATION_AND_TRAINING: (0.29, ("experimentation", "training")),
            "inference": (0.40, ("inference",)),
        },
    ),
    Reference(
        "compute cycles without data",
        {
            "experimentation": (0.10, ("experimentation",)),
            "training": (0.20, ("training",)),
            "inference": (0.70, ("inference",)),
        },
    ),
)
"""31:29:40 and 10:20:70, of a large company's workloads: section III-A of the paper, after
C.-J. Wu et al., "Sustainable AI", MLSys 2022."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a project beside the reference's.

    Attributes:
        name: Of the part.
        energy: Gross, J.
        share: Of the phases that the reference has; NaN when there is no energy in any.
        reference: The reference's share.
    """

    name: str
    energy: UncertainValue
    share: Ratio
    reference: float


def split(phases: Mapping[str, UncertainValue], reference: Reference) -> list[Part]:
    """The parts of a reference, of the energy of the phases that it has.

    Args:
        phases: Energy of each phase, J; what is in no phase of the reference is left out.
        reference: A published split.

    Example:
        >>> phases = {"training": UncertainValue(30.0), "inference": UncertainValue(70.0)}
        >>> [(part.name, part.share.value) for part in split(phases, REFERENCES[1])]
        [('experimentation', 0.0), ('training', 0.3), ('inference', 0.7)]
    """
    energies = {name: _sum(phases, of) for name, (_, of) in reference.parts.items()}
    return [
        Part(
            name,
            energies[name],
            share(
                energies[name],
                UncertainValue.total(e for other, e in energies.items() if other != name),
            ),
            fraction,
        )
        for name, (fraction, _) in reference.parts.items()
    ]


def _sum(phases: Mapping[str, UncertainValue], names: Sequence[str]) -> UncertainValue:
    return UncertainValue.total(phases[name] for name in names if name in phases)
