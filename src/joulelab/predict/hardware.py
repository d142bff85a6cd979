"""Hardware profiles: what is known of a device's time and energy, as a file of JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from joulelab.errors import UserError, nearest
from joulelab.predict.coefficients import NAMES
from joulelab.predict.device_model import Coefficients
from joulelab.predict.devices import Datasheet
from joulelab.storage import home, write_whole, writing

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Sheet(_Strict):
    """As :class:`~joulelab.predict.devices.Datasheet`."""

    device: str
    kind: Literal["cuda", "cpu"]
    vector_flops_per_s: Positive
    matrix_flops_per_s: Positive
    memory_bytes_per_s: Positive
    cache_bytes: Positive
    processors: Annotated[int, Field(gt=0)]
    power_limit_w: Positive
    generic: bool


class Seen(_Strict):
    """What the coefficients were fitted on.

    Attributes:
        architectures: Different models.
        cases: Different steps.
        batch_size: Least and most.
        input_elements: Numbers in a sample, least and most.
        device_share: Of each kind of operator, the most of the device's time in any step.
    """

    architectures: int
    cases: int
    batch_size: tuple[int, int]
    input_elements: tuple[int, int]
    device_share: dict[str, NotNegative]


class HardwareProfile(_Strict):
    """What is known of a device.

    Attributes:
        schema_version: Of this file's format.
        name: Short, as ``h100``.
        numerics: Number formats and settings of the steps that were measured.
        source: Where the measurements came from.
        datasheet: The device's limits.
        idle_power_w: Of what was metered.
        coefficients: As :data:`joulelab.predict.coefficients.COEFFICIENTS`.
        log_covariance: Of the logarithms of the coefficients, in their order.
        duration_discrepancy: Standard deviation of what the model gets wrong of durations'
            logarithms; see :mod:`joulelab.predict.uncertainty`.
        energy_discrepancy: The same of energies.
        coverage_factor: Standard deviations on either side that hold 95 %.
        seen: What was measured.
    """

    schema_version: Literal[1] = 1
    name: str
    numerics: str
    source: str
    datasheet: Sheet
    idle_power_w: NotNegative
    coefficients: dict[str, Positive]
    log_covariance: list[list[Finite]]
    duration_discrepancy: NotNegative
    energy_discrepancy: NotNegative
    coverage_factor: Positive
    seen: Seen

    @model_validator(mode="after")
    def _complete(self) -> HardwareProfile:
        if tuple(self.coefficients) != NAMES:
            different = set(self.coefficients) ^ set(NAMES)
            raise ValueError(f"coefficients differ from this version's: {sorted(different)}")
        if [len(row) for row in self.log_covariance] != [len(NAMES)] * len(NAMES):
            raise ValueError(f"log_covariance must be {len(NAMES)} rows of {len(NAMES)} numbers")
        return self

    @property
    def sheet(self) -> Datasheet:
        """The device's limits."""
        return Datasheet(**self.datasheet.model_dump())

    @property
    def known(self) -> Coefficients:
        """Coefficients and their covariance as arrays."""
        return Coefficients(
            np.log(list(self.coefficients.values())), np.array(self.log_covariance, dtype=float)
        )


def coefficients_of(fitted: Coefficients) -> dict[str, float]:
    """Coefficients by name, to six digits."""
    values = np.exp(fitted.logs)
    return {name: float(f"{value:.6g}") for name, value in zip(NAMES, values, strict=True)}


def covariance_of(fitted: Coefficients) -> list[list[float]]:
    """Rows of numbers, to four digits."""
    return [[float(f"{value:.4g}") for value in row] for row in fitted.covariance]


def shipped_profiles() -> list[str]:
    """The names of the profiles that come with the package.

    Example:
        >>> shipped_profiles()
        ['h100']
    """
    return sorted(
        entry.name.removesuffix(".json")
        for entry in files("joulelab.predict").joinpath("profiles").iterdir()
        if entry.name.endswith(".json")
    )


def load_profile(name: str) -> HardwareProfile:
    """A profile by its path, or by the name of a shipped one or of one kept at home.

    Raises:
        UserError: There is none, or it is not understood.

    Example:
        >>> load_profile("h100").datasheet.device
        'NVIDIA H100 80GB HBM3'
    """
    path = Path(name)
    kept = home() / "profiles" / f"{name}.json"
    try:
        if path.is_file():
            text = path.read_text(encoding="utf-8")
        elif "/" not in name and kept.is_file():
            text = kept.read_text(encoding="utf-8")
        elif name in shipped_profiles():
            shipped = files("joulelab.predict").joinpath("profiles", f"{name}.json")
            text = shipped.read_text(encoding="utf-8")
        else:
            raise UserError(
                f"no hardware profile {name!r}",
                hint=f"{nearest(name, _known())}, or make one with joulelab hardware calibrate",
            )
        return HardwareProfile.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{name} is no hardware profile of this version",
            why=f"{place}: {first['msg']}" if place else first["msg"],
            hint="make it again with joulelab hardware fit or calibrate",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the profile {name}", why=str(error)) from error


def save_profile(profile: HardwareProfile, path: Path) -> None:
    """Writes a profile whole or not at all.

    Raises:
        UserError: It cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, (profile.model_dump_json(indent=1) + "\n").encode())


def doublings_beyond(value: float, seen: Sequence[float]) -> float:
    """Doublings from a value to the range that was seen; negative below it.

    Example:
        >>> doublings_beyond(1024, (128, 128)), doublings_beyond(8, (16, 64))
        (3.0, -1.0)
    """
    low, high = seen
    if value > high:
        return math.log2(value / high)
    return math.log2(value / low) if value < low else 0.0


def _known() -> list[str]:
    kept = (home() / "profiles").glob("*.json")
    return sorted({*shipped_profiles(), *(path.stem for path in kept)})
