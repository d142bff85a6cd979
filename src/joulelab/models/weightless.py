"""Build models whose parameters have shapes but no memory, and run models in another mode."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary


@contextlib.contextmanager
def weightless() -> Iterator[None]:
    """Put the parameters of models that are built in the block on the meta device.

    Each parameter moves there when it is registered, before it is initialised, so no memory is
    written. Other tensors are real. Therefore constructors that read data (for example
    ``torch.linspace(0, p, depth).tolist()``) work, which they do not with ``meta`` as the default
    device or with fake tensors.

    Example:
        >>> with weightless():
        ...     model = nn.Linear(1_000, 1_000)
        >>> model.weight.device.type, tuple(model.weight.shape)
        ('meta', (1000, 1000))
    """
    register = nn.Module.register_parameter
    on_meta = WeakIdKeyDictionary()  # shared parameters stay shared

    def register_on_meta(
        module: nn.Module, name: str, param: nn.Parameter | None, *rest: Any
    ) -> None:
        register(module, name, param, *rest)
        if param is None or param.device.type == "meta" or nn.parameter.is_lazy(param):
            return
        if param not in on_meta:
            empty = torch.empty_like(param, device="meta")
            on_meta[param] = nn.Parameter(empty, requires_grad=param.requires_grad)
        module._parameters[name] = on_meta[param]

    nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign,assignment]
    try:
        with warnings.catch_warnings():
            # torchvision's GoogLeNet and Inception warn about a future initialisation.
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


@contextlib.contextmanager
def training_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Switch a model to training or evaluation and restore the mode of each module afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, before in modes:
            module.training = before
