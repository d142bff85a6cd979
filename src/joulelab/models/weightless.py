"""Models whose parameters have shapes and no memory."""

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
    """Models built within have their parameters on the meta device.

    Each parameter goes there as it is registered, before it is initialised, so that no memory is
    written. Other tensors are real: constructors that look at the data of what they make (as
    ``torch.linspace(0, p, depth).tolist()``) work, which they do not under a default device of
    ``meta`` or a mode of fake tensors.

    Example:
        >>> with weightless():
        ...     model = nn.Linear(1_000, 1_000)
        >>> model.weight.device.type, tuple(model.weight.shape)
        ('meta', (1000, 1000))
    """
    register = nn.Module.register_parameter
    on_meta = WeakIdKeyDictionary()  # so that what is shared stays shared

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
            # torchvision's GoogLeNet and Inception warn of how they will initialise their weights.
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
