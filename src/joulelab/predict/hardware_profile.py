"""Hardware profiles: JSON files that describe the time and energy of a device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from joulelab.errors import UserError, nearest
from joulelab.format import join_words
from joulelab.predict.coefficients import (
    COEFFICIENT_NAMES,
    KNOWN_LENGTHS,
    Datasheet,
    Positive,
    expect_coefficients,
    find_datasheet,
    known_datasheets,
)
from joulelab.predict.device_model import UNKNOWN_DISCREPANCY, FittedCoefficients
from joulelab.storage import home, make_private_directories, write_whole, writing

NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class MeasuredRange(BaseModel):
    """The steps that a profile was fitted to, with the smallest and largest values."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    architectures: int  # number of models
    cases: int  # number of steps
    batch_size: tuple[int, int]
    input_elements: tuple[int, int]  # elements in a sample
    device_share: dict[str, NotNegative]  # largest share of the device's time in any step, by kind
    token_kinds: tuple[str, ...] = ()  # of the steps of language models; see Case.token_kind


class HardwareProfile(BaseModel):
    """Time and energy of a device; the fields of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    name: str  # short, for example h100
    numerics: str  # number formats and settings of the measured steps
    source: str  # origin of the measurements
    server: str = ""  # inference server that ran the steps; empty if PyTorch did
    datasheet: Datasheet
    idle_power_w: NotNegative  # of the metered components
    coefficients: dict[str, Positive]  # by the names in COEFFICIENT_NAMES
    log_covariance: list[list[Finite]]  # of the logarithms, in the same order
    duration_discrepancy: NotNegative  # scale of the model's own error in log time
    energy_discrepancy: NotNegative  # the same for energies; see device_model
    coverage_factor: Positive  # half width of a 95 % interval in scales
    seen: MeasuredRange  # the measured steps
    transferred_from: str = ""  # the device that was measured, if it is another one

    @model_validator(mode="after")
    def _check_coefficients(self) -> HardwareProfile:
        names = tuple(self.coefficients)
        if names not in [COEFFICIENT_NAMES[:length] for length in KNOWN_LENGTHS]:
            different = set(names) ^ set(COEFFICIENT_NAMES)
            raise ValueError(f"coefficients differ from this version's: {sorted(different)}")
        if [len(row) for row in self.log_covariance] != [len(names)] * len(names):
            raise ValueError(f"log_covariance must be {len(names)} rows of {len(names)} numbers")
        return self

    @property
    def fitted_coefficients(self) -> FittedCoefficients:
        """Coefficients and their covariance as arrays; the data sheet's for those it lacks."""
        logs, covariance = expect_coefficients(self.datasheet)
        known = len(self.coefficients)
        logs[:known] = np.log(list(self.coefficients.values()))
        covariance[:known, :known] = self.log_covariance
        return FittedCoefficients(logs, covariance)

    def on_device(self, device: str) -> HardwareProfile:
        """Transfer the profile to a device that was not measured, by its data sheet.

        Each coefficient keeps its ratio to what the data sheet leads to expect, and the idle power
        its share of the power limit. Predictions become :data:`UNKNOWN_DISCREPANCY` less certain.

        Raises:
            UserError: There is no data sheet of the device.
        """
        sheet = find_datasheet(device)
        if sheet is None:
            known = join_words([one.device for one in known_datasheets()], "and")
            raise UserError(
                f"there is no data sheet of {device!r}",
                hint=f"there are those of {known}; or measure it: joulelab hardware calibrate",
            )
        if sheet == self.datasheet:
            return self
        fitted = self.fitted_coefficients
        (before, _), (after, _) = map(expect_coefficients, (self.datasheet, sheet))
        values = np.exp(fitted.logs + after - before)
        return self.model_copy(
            update={
                "source": f"{self.source}; transferred from {self.datasheet.device}",
                "datasheet": sheet,
                "idle_power_w": self.idle_power_w
                * (sheet.power_limit_w / self.datasheet.power_limit_w),
                "coefficients": dict(zip(COEFFICIENT_NAMES, values.tolist(), strict=True)),
                "log_covariance": fitted.covariance.tolist(),
                "duration_discrepancy": math.hypot(self.duration_discrepancy, UNKNOWN_DISCREPANCY),
                "energy_discrepancy": math.hypot(self.energy_discrepancy, UNKNOWN_DISCREPANCY),
                "transferred_from": self.datasheet.device,
            }
        )

    def save(self, path: Path) -> None:
        """Write the profile to a JSON file."""
        with writing(path):
            make_private_directories(path.parent)
            text = self.model_dump_json(indent=1) + "\n"
            write_whole(path, text.encode(), private=True)


def shipped_profiles() -> list[str]:
    """Return the names of the profiles that come with JouleLab.

    Example:
        >>> shipped_profiles()
        ['a100-transformers', 'a100-vllm', 'h100', 'h100-vllm']
    """
    return sorted(
        entry.name.removesuffix(".json")
        for entry in files("joulelab.predict").joinpath("profiles").iterdir()
        if entry.name.endswith(".json")
    )


def profile_names() -> list[str]:
    """List the names of all profiles, shipped and saved."""
    saved = (home() / "profiles").glob("*.json")
    return sorted({*shipped_profiles(), *(path.stem for path in saved)})


def load_profile(name: str) -> HardwareProfile:
    """Load a profile by its path, or by its name if it comes with JouleLab or is saved.

    Args:
        name: Path of a file, name of a shipped profile, or ``NAME`` for
            ``$JOULELAB_HOME/profiles/NAME.json``.

    Raises:
        UserError: There is no such profile, or it is invalid.

    Example:
        >>> load_profile("h100").datasheet.device
        'NVIDIA H100 80GB HBM3'
    """
    path = Path(name)
    saved = home() / "profiles" / f"{name}.json"
    try:
        if path.is_file():
            text = path.read_text(encoding="utf-8")
        elif "/" not in name and saved.is_file():
            text = saved.read_text(encoding="utf-8")
        elif name in shipped_profiles():
            shipped = files("joulelab.predict").joinpath("profiles", f"{name}.json")
            text = shipped.read_text(encoding="utf-8")
        else:
            similar = nearest(name, profile_names())
            raise UserError(
                f"no hardware profile {name!r}",
                hint=f"{similar}, or create one: joulelab hardware calibrate",
            )
        return HardwareProfile.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{name} is not a hardware profile of this version",
            why=f"{field}: {first['msg']}" if field else first["msg"],
            hint="create it again with joulelab hardware fit or calibrate",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the profile {name}", why=str(error)) from error


def doublings_beyond(value: float, fitted: Sequence[float]) -> float:
    """Return the doublings from the fitted range to a value; negative below the range.

    Example:
        >>> doublings_beyond(1024, (128, 128)), doublings_beyond(8, (16, 64))
        (3.0, -1.0)
    """
    low, high = fitted
    if value > high:
        return math.log2(value / high)
    return math.log2(value / low) if value < low else 0.0
