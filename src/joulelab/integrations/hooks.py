"""What the callbacks of all frameworks have in common."""

from __future__ import annotations

from typing import Self

from joulelab.integrations.fit import Fit
from joulelab.integrations.stages import Stages
from joulelab.meter import Meter


class EnergyHooks:
    """A callback that marks what its framework does. As a context it ends what was left open.

    Args:
        meter: The caller's own; ``None``: one is opened for each call of the framework.
        steps: Whether to mark steps.
        forecast: Whether to say what all epochs will take.
    """

    def __init__(self, meter: Meter | None, *, steps: bool, forecast: bool) -> None:
        super().__init__()
        self._stages = Stages(meter)
        self._steps, self._forecast = steps, forecast
        self._fit: Fit | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def meter(self) -> Meter | None:
        """Of the framework's latest call; ``None`` where nothing was measured."""
        return self._stages.meter

    def close(self) -> None:
        """Ends whatever is open, and the recording."""
        self._fit = None
        self._stages.close()
