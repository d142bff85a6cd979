"""The size of a model and the work of one sample, and models without memory for their weights."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parameter import is_lazy
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

from joulelab.errors import UserError
from joulelab.format import quantity

_log = logging.getLogger(__name__)
_WEIGHTLESS = ContextVar("weightless", default=False)


@dataclass(frozen=True, slots=True)
class Characteristics:
    """Size and work of a model. Tensors that several modules share count once."""

    parameters: int  # elements of all parameters, including frozen ones
    trainable_parameters: int  # elements of the parameters with requires_grad
    parameter_bytes: int
    buffer_bytes: int  # for example statistics of batch normalisation; also unsaved buffers
    size_bytes: int  # parameter_bytes + buffer_bytes
    macs: int  # multiply-accumulate operations of one sample; see characterize
    macs_per_parameter: float | None  # None for a model without parameters


def characterize(
    model: nn.Module,
    input_shape: Sequence[int] = (3, 32, 32),
    *,
    name: str | None = None,
) -> Characteristics:
    """Measure the size of a model and count the multiply-accumulate operations of one sample.

    MACs are half of what :class:`torch.utils.flop_counter.FlopCounterMode` counts in one forward
    pass in evaluation mode: every convolution (grouped, depthwise, transposed; padding
    counts as if it were data) and every matrix product: linear layers, ``matmul``, ``bmm``, both
    products of attention (masked entries count), recurrent layers, and in a mixture the experts
    that a token is routed to. Additions of biases, normalisation, activations, pooling, embeddings
    and element-wise work count nothing.

    The forward pass runs on meta tensors, which have shapes but no data, and costs neither memory
    nor arithmetic. A model that fails on them runs on fake tensors instead, and if it fails on
    those too (because it reads its data) on zeros and copies of its tensors; both without fused
    attention and recurrent kernels, which the counter does not recognise. The model's modes,
    buffers and gradients and PyTorch's random state and settings are restored.

    Args:
        model: Any module that accepts one batch of samples. It is not modified.
        input_shape: Shape of one sample, without the batch: ``(channels, height, width)``, or
            ``(tokens,)`` for a model that takes token ids. A model of transformers that has an
            encoder and a decoder reads and writes as many.
        name: Name of the model in errors; default: its class.

    Raises:
        UserError: The model does not accept such a sample, has uninitialised layers, or hides its
            tensors (TorchScript, packed quantised weights).

    Example:
        >>> characterize(nn.Linear(8, 4), (8,))
        Characteristics(parameters=36, trainable_parameters=36, parameter_bytes=144,
                        buffer_bytes=0, size_bytes=144, macs=32, macs_per_parameter=0.88...)
    """
    name = type(model).__name__ if name is None else name
    _refuse_unreadable(model, name)
    parameters, buffers = list(model.parameters()), list(model.buffers())
    if any(size < 1 for size in input_shape):
        raise UserError(f"no sample has the shape {_shape(input_shape)}", why="a size is below 1")
    count = sum(tensor.numel() for tensor in parameters)
    parameter_bytes = sum(tensor.nbytes for tensor in parameters)
    buffer_bytes = sum(tensor.nbytes for tensor in buffers)
    macs = _macs(model, input_shape, name)
    return Characteristics(
        parameters=count,
        trainable_parameters=sum(t.numel() for t in parameters if t.requires_grad),
        parameter_bytes=parameter_bytes,
        buffer_bytes=buffer_bytes,
        size_bytes=parameter_bytes + buffer_bytes,
        macs=macs,
        macs_per_parameter=macs / count if count else None,
    )


def sample_batch(model: nn.Module, batch_size: int, shape: Sequence[int]) -> Tensor:
    """Create samples of zeros on the default device.

    They are token ids if the shape is ``(tokens,)`` and the model's first layer with weights is an
    embedding, else numbers of the type of the model's weights.
    """
    first = next((one for one in model.modules() if list(one.parameters(recurse=False))), None)
    if isinstance(first, nn.Embedding) and len(shape) == 1:
        return torch.zeros((batch_size, *shape), dtype=torch.long)
    floating = (one.dtype for one in model.parameters() if one.is_floating_point())
    return torch.zeros((batch_size, *shape), dtype=next(floating, None))


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
        if param is None or param.device.type == "meta" or is_lazy(param):
            return
        if param not in on_meta:
            empty = torch.empty_like(param, device="meta")
            on_meta[param] = nn.Parameter(empty, requires_grad=param.requires_grad)
        module._parameters[name] = on_meta[param]

    nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign,assignment]
    inside = _WEIGHTLESS.set(True)
    try:
        with warnings.catch_warnings():
            # torchvision's GoogLeNet and Inception warn about a future initialisation.
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        _WEIGHTLESS.reset(inside)
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def is_weightless() -> bool:
    """Report whether a block of :func:`weightless` is open."""
    return _WEIGHTLESS.get()


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


@contextlib.contextmanager
def countable_experts(model: nn.Module) -> Iterator[None]:
    """Let mixtures of experts multiply by batches, whose sizes do not depend on the data.

    Each token is multiplied by the matrices of as many experts as it is routed to, so the work is
    the same as in grouped products, which PyTorch's counter does not recognise. Only models of
    transformers 5 have the choice.
    """
    changeable: Any = model
    if not getattr(model, "_can_set_experts_implementation", lambda: False)():
        yield
        return
    before = changeable.get_experts_implementation()
    changeable.set_experts_implementation("batched_mm")
    try:
        yield
    finally:
        changeable.set_experts_implementation(before)


def _refuse_unreadable(model: nn.Module, name: str) -> None:
    """Raise a UserError for layers whose size or work is not visible: absent is not zero."""
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        raise UserError(
            f"the size of {name} is unknown",
            why="it has lazily initialised layers",
            hint="run one batch through it first",
        )
    for module in model.modules():
        packed = any(isinstance(value, torch.ScriptObject) for value in vars(module).values())
        if packed or isinstance(module, torch.jit.ScriptModule):
            raise UserError(
                f"the size and work of {name} cannot be counted",
                why=f"{type(module).__name__} is a TorchScript module or contains packed weights",
                hint="characterize the original model",
            )


def _macs(model: nn.Module, input_shape: Sequence[int], name: str) -> int:
    first = next(model.parameters(), None)
    device = torch.device("cpu") if first is None or first.is_meta else first.device
    with training_mode(model, False), torch.no_grad(), countable_experts(model):
        for without_data in (on_meta, on_fake_tensors):
            try:
                with without_data() as copy:
                    return _count(model, input_shape, copy)
            except Exception as error:  # noqa: BLE001 - a pass below succeeds or gives the reason
                _log.debug("%s: no forward pass without data: %s", name, error)
        _require_memory(model, name)
        seeded = [device] if device.type == "cuda" else []
        try:
            with torch.random.fork_rng(seeded), _plain_kernels(), device:
                return _count(model, input_shape, lambda tensor: _real_copy(tensor, device))
        except Exception as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise UserError(f"{name} does not accept {_shape(input_shape)}", why=reason) from error


def product_counter() -> FlopCounterMode:
    """Return PyTorch's counter of the operations of products.

    Batched products of columns with rows are none: they multiply element by element, as some
    versions of transformers do to rotate positions.
    """
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.bmm: _batched_flops})


def _batched_flops(first: Sequence[int], second: Sequence[int], **_: Any) -> int:
    batch, rows, inner = first
    return 2 * batch * rows * inner * second[-1] if inner > 1 else 0


def _count(
    model: nn.Module, input_shape: Sequence[int], replace: Callable[[Tensor], Tensor]
) -> int:
    """Count the MACs of one sample of zeros on the default device, with all tensors replaced."""
    parameters = {name: replace(tensor) for name, tensor in model.named_parameters()}
    buffers = {name: replace(tensor) for name, tensor in model.named_buffers()}
    sample = sample_batch(model, 1, input_shape)
    translates = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    options = {"decoder_input_ids": sample} if translates else {}
    with product_counter() as counter:
        functional_call(model, parameters | buffers, (sample,), options)
    flops: int = counter.get_total_flops()
    return flops // 2


@contextlib.contextmanager
def on_meta() -> Iterator[Callable[[Tensor], Tensor]]:
    """Make meta the default device, and give a function that copies a tensor there."""
    with torch.device("meta"):
        yield lambda tensor: torch.empty_like(tensor, device="meta")


@contextlib.contextmanager
def on_fake_tensors() -> Iterator[Callable[[Tensor], Tensor]]:
    """Like :func:`on_meta`, with tensors that claim to be on the CPU.

    They take longer, and suit code that refuses the meta device, for example by an autocast.
    Errors are raised, and not logged as PyTorch does.
    """
    log = logging.getLogger("torch._subclasses.fake_tensor")
    disabled, log.disabled = log.disabled, True
    try:
        with _plain_kernels(), FakeTensorMode(), torch.device("cpu"):
            yield lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype)
    finally:
        log.disabled = disabled


def _require_memory(model: nn.Module, name: str) -> None:
    """Raise a UserError if a copy of the model does not fit into memory."""
    needed = sum(one.nbytes for one in (*model.parameters(), *model.buffers()))
    available = psutil.virtual_memory().available
    if needed > available:
        raise UserError(
            f"the work of {name} cannot be counted",
            why=f"it reads its data, and needs {quantity(needed, 'B')} of memory for it where "
            f"{quantity(available, 'B')} are available",
        )


def _real_copy(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor; one of a :func:`weightless` model becomes zeros."""
    if tensor.is_meta:
        return torch.zeros_like(tensor, device=device)
    return tensor.detach().to(device, copy=True)


@contextlib.contextmanager
def _plain_kernels() -> Iterator[None]:
    """Disable fused kernels, which hide matrix products from the counter."""
    backends: Any = torch.backends
    fast_path = backends.mha.get_fastpath_enabled()
    cudnn, mkldnn = backends.cudnn.enabled, backends.mkldnn.enabled
    try:
        backends.mha.set_fastpath_enabled(False)
        backends.cudnn.enabled = backends.mkldnn.enabled = False
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        backends.mha.set_fastpath_enabled(fast_path)
        backends.cudnn.enabled, backends.mkldnn.enabled = cudnn, mkldnn


def _shape(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))
