"""Energy in Lightning, of the package ``lightning``."""

from __future__ import annotations

import logging

from joulelab.integrations.lightning_hooks import LightningHooks

try:
    from lightning.pytorch.callbacks import Callback
except ModuleNotFoundError as error:
    raise ImportError(
        "the package lightning is not installed; run pip install 'joulelab[integrations]'"
    ) from error


class EnergyCallback(LightningHooks, Callback):
    """See :class:`~joulelab.integrations.lightning_hooks.LightningHooks`."""

    _lightnings_log = logging.getLogger("lightning.pytorch")
