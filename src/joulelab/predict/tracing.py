"""One step of training or inference traced without running it.

It runs on meta tensors, which have shapes and no data: nothing is computed, and no weight takes
memory. Every operator that would start work on a device is noted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as everyone calls it
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from joulelab.errors import UserError
from joulelab.predict.attention import FusedKernels
from joulelab.predict.counting import (
    attention_operator,
    is_view,
    operators_of,
    sgd_operators,
)
from joulelab.predict.operators import PHASES, Operator, Step


def trace_step(
    model: nn.Module,
    phase: str,
    batch_size: int,
    input_shape: Sequence[int],
    *,
    name: str | None = None,
) -> Step:
    """The operators of one step: forward, and for training backward and a step of SGD.

    Training is with cross-entropy, or the mean of the squares where the output is not one score a
    class, and SGD with momentum; gradients are set to none.

    Args:
        model: Built under :func:`joulelab.models.weightless.weightless`, or any other; it is left
            as it was.
        phase: ``"train"`` or ``"infer"``.
        batch_size: Samples in the step.
        input_shape: Shape of one sample, as ``(3, 224, 224)``; of a model of token ids
            ``(tokens,)``.
        name: What errors call the model; default: its class.

    Raises:
        UserError: The model does not take such a sample, or looks at data on the way.

    Example:
        >>> step = trace_step(nn.Linear(8, 4), "infer", 16, (8,))
        >>> step.flops, step.bytes, step.launches
        (1024.0, 912.0, 1)
    """
    if phase not in PHASES:
        raise UserError(f"no phase {phase!r}", hint=f"it is one of {', '.join(PHASES)}")
    shape = "x".join(map(str, (batch_size, *input_shape)))
    if batch_size < 1 or any(size < 1 for size in input_shape):
        raise UserError(f"cannot trace a step of {shape}", why="it is empty")
    name = type(model).__name__ if name is None else name
    modes = [(module, module.training) for module in model.modules()]
    model.train(phase == "train")
    try:
        return _traced(model, phase, batch_size, tuple(input_shape))
    except UserError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"{name} does not take {shape} for {phase}", why=reason) from error
    finally:
        for module, training in modes:
            module.training = training


def _traced(model: nn.Module, phase: str, batch_size: int, shape: tuple[int, ...]) -> Step:
    parameters = {
        key: nn.Parameter(torch.empty_like(one, device="meta"), one.requires_grad)
        for key, one in model.named_parameters()
    }
    buffers = {key: torch.empty_like(one, device="meta") for key, one in model.named_buffers()}
    noted = _Noted()
    with torch.device("meta"):
        batch = _batch(model, batch_size, shape)
        with noted, FusedKernels(noted.add_attention):
            if phase == "infer":
                with torch.no_grad():
                    functional_call(model, parameters | buffers, (batch,))
            else:
                loss = _loss(functional_call(model, parameters | buffers, (batch,)))
                noted.part = "backward"
                loss.backward()  # type: ignore[no-untyped-call]
    trained = [one for one in parameters.values() if one.grad is not None]
    noted.operators.update(sgd_operators(trained))
    return Step(
        phase=phase,
        batch_size=batch_size,
        operators=noted.operators,
        parameter_tensors=len(trained),
    )


def _batch(model: nn.Module, batch_size: int, shape: tuple[int, ...]) -> Tensor:
    """Samples; token ids where the model's first layer with weights looks them up."""
    first = next((one for one in model.modules() if list(one.parameters(recurse=False))), None)
    if isinstance(first, nn.Embedding) and len(shape) == 1:
        return torch.zeros((batch_size, *shape), dtype=torch.long)
    floating = (one.dtype for one in model.parameters() if one.is_floating_point())
    return torch.zeros((batch_size, *shape), dtype=next(floating, None))


def _loss(output: Any) -> Tensor:
    """The sum over all outputs: auxiliary classifiers are trained beside the scores."""
    if hasattr(output, "to_tuple"):  # a model of transformers answers with a data class
        output = output["logits"] if "logits" in output else next(iter(output.to_tuple()))
    trained = [one for one in tree_leaves(output) if isinstance(one, Tensor) and one.requires_grad]
    if not trained:
        raise UserError("the model cannot be trained", why="no output depends on a parameter")
    first, *others = map(_loss_of, trained)
    return sum(others, first)


def _loss_of(output: Tensor) -> Tensor:
    if output.ndim not in (2, 3):
        return output.square().mean()
    scores = output.flatten(0, -2)
    return F.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long))


class _Noted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operator that would start work on a device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: Counter[Operator] = Counter()
        self.part = "forward"

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not is_view(func):
            self.operators.update(operators_of(func, args, kwargs, out, self.part))
        return out

    def add_attention(
        self, query: Tensor, key: Tensor, value: Tensor, causal: bool, part: str
    ) -> None:
        self.operators[attention_operator(query, key, value, part, causal=causal)] += 1
