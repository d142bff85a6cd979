"""Energy in PyTorch Lightning, of the package ``pytorch_lightning``."""

from __future__ import annotations

import logging

from joulelab.integrations.lightning_hooks import LightningHooks

try:
    from pytorch_lightning.callbacks import Callback
except ModuleNotFoundError as error:
    raise ImportError(
        "the package pytorch_lightning is not installed; run pip install pytorch-lightning"
    ) from error


class EnergyCallback(LightningHooks, Callback):
    """See :class:`~joulelab.integrations.lightning_hooks.LightningHooks`."""

    _lightnings_log = logging.getLogger("pytorch_lightning")
