"""Count the kinds, FLOPs, bytes and launches of one call of a PyTorch operator.

Bytes are those of the passes that PyTorch's CUDA kernels make over their tensors. Batch
normalisation in training reads its input twice (statistics, then result), and its gradient reads
both inputs twice (ATen/native/cuda/Normalization.cuh). Other operators read each input once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from joulelab.predict.steps import VECTOR, MatrixProduct, Operator

aten = torch.ops.aten

TENSORS_A_LAUNCH = 48
"""Tensors per launch of a multi-tensor kernel, a typical number (30 to 110, depending on the number
of tensor lists; ATen/native/cuda/MultiTensorApply.cuh)."""

PICTURE_CHANNELS = 3
"""Most input channels that oneDNN does not pad to a vector."""

IMAGES_OF_ONEDNN = 16
"""Least images for which one thread computes a 1x1 convolution without strides by oneDNN."""

SMALL_IMAGE = 20480
"""Numbers in a single image up to which no kernel of at most 3 pixels a side runs in oneDNN."""

_FREE = {
    aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided,
    aten.detach, aten.lift_fresh,
}  # fmt: skip
_CONVOLUTIONS = {aten.convolution, aten._convolution}
_PRODUCTS = {aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.addbmm}
_LOOKUPS = {aten.embedding, aten.index, aten.index_select, aten.gather, aten.take}
_REDUCTIONS = (
    "sum", "mean", "amax", "max", "amin", "min", "argmax", "softmax", "norm", "linalg_vector_norm",
    "nll_loss", "var", "std", "logsumexp", "cumsum", "topk", "sort", "all", "any",
)  # fmt: skip
_FUNCTIONS = ("softmax", "silu", "gelu", "sigmoid", "tanh", "mish", "exp", "erf", "log", "pow")
_NORMALIZATIONS = ("batch_norm", "layer_norm", "group_norm", "rms_norm", "instance_norm")


def is_view(func: Any) -> bool:
    """Return whether the operator only gives a view of its input and does no work."""
    returns = func._schema.returns
    return bool(returns) and all(
        one.alias_info is not None and not one.alias_info.is_write for one in returns
    )


def count_call(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any, part: str
) -> list[Operator]:
    """Return the device operators of one call of an ATen overload; none if it starts no kernel."""
    packet = func.overloadpacket
    inputs = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
    outputs = [one for one in tree_leaves(out) if isinstance(one, Tensor)]
    if packet in _FREE or not outputs:
        return []
    if packet in _CONVOLUTIONS:
        return _convolution(args, outputs[0], part)
    if packet is aten.convolution_backward:
        return _convolution_backward(args, outputs, part)
    written = size_bytes(outputs)
    # A product of columns with rows multiplies element by element: transformers 5.17's rotations.
    if packet in _PRODUCTS and not (packet is aten.bmm and inputs[0].shape[-1] == 1):
        product = _product(*[one for one in inputs if one.ndim > 1][-2:])
        flops = 2.0 * math.prod(product)
        return [Operator("matrix_product", part, flops, size_bytes(inputs), written, product)]
    name = packet.__name__.strip("_")
    if any(known in name for known in _NORMALIZATIONS):
        reads, launches = _normalization_passes(name, args)
        read = reads * size_bytes([one for one in inputs if one.ndim > 1])
        elements = 2.0 * outputs[0].numel() if launches > 1 or "batch_norm" not in name else 0.0
        found = Operator("normalization", part, 0.0, read, written, launches=launches)
        return [found._replace(elements=elements)]
    read = written if packet in _LOOKUPS else size_bytes(inputs)
    kind = "reduction" if name.startswith(_REDUCTIONS) else "elementwise"
    elements = float(inputs[0].numel()) if any(one in name for one in _FUNCTIONS) else 0.0
    if "max_pool" in name or "avg_pool" in name:
        kind, elements = "pooling", _window_elements(name, args, outputs[0])
    return [Operator(kind, part, 0.0, read, written, elements=elements)]


def count_sgd(parameters: Sequence[Tensor]) -> list[Operator]:
    """Return the operators of one SGD step with momentum, as PyTorch's multi-tensor kernels do it.

    They scale the momentum, add the gradient to it, and add it to the parameters.
    """
    if not parameters:
        return []
    size = size_bytes(parameters)
    launches = math.ceil(len(parameters) / TENSORS_A_LAUNCH)
    return [
        Operator("optimizer", "optimizer", 0.0, reads * size, size, launches=launches)
        for reads in (1, 2, 2)
    ]


def count_attention(
    query: Tensor, key: Tensor, value: Tensor, part: str, *, causal: bool
) -> Operator:
    """Return fused attention: two matrix products forward, five backward.

    The scores are never written, and causal attention skips half of them (Dao, "FlashAttention-2:
    Faster Attention with Better Parallelism and Work Partitioning", 2023).
    """
    rows, depth = query.shape[-2], query.shape[-1]
    columns, width = key.shape[-2], (depth + value.shape[-1]) / 2
    matrices = query.numel() // (rows * depth)
    product = MatrixProduct(matrices, rows, columns, depth)
    backward = part == "backward"
    flops = 2.0 * (5 if backward else 2) * matrices * rows * columns * width
    out = float(query.numel() // depth * value.shape[-1] * query.element_size())
    tensors = size_bytes([query, key, value])
    read, written = (tensors + 2.0 * out, tensors) if backward else (tensors, out)
    return Operator("attention", part, flops / (2 if causal else 1), read, written, product)


def size_bytes(tensors: Sequence[Tensor]) -> float:
    """Return the bytes of all elements of tensors; broadcast elements count once."""
    total = 0
    for one in tensors:
        sizes = zip(one.shape, one.stride(), strict=True)
        elements = math.prod(size for size, stride in sizes if stride)
        total += elements * one.element_size()
    return float(total)


def _convolution(args: tuple[Any, ...], out: Tensor, part: str) -> list[Operator]:
    image, weight, bias = args[:3]
    transposed, groups = args[6], args[8]
    kind = _convolution_kind(weight, groups)
    pixels = image if transposed else out
    flops = 2.0 * _pixels(pixels) * weight.numel()
    depth = round(flops / (2.0 * out.numel()))
    product = MatrixProduct(groups, _pixels(out), out.shape[1] // groups, depth)
    read, written = size_bytes([image, weight]), size_bytes([out])
    found = [
        Operator(
            kind, part, flops, read, written, product,
            weight_bytes=size_bytes([weight]),
            vector_flops=_vector_flops(flops, weight, groups),
            images=image.shape[0],
            threads_alone=_threads_alone(image, weight, (*args[3], *args[5]), groups, transposed),
        )
    ]  # fmt: skip
    # After a cuDNN convolution another kernel adds the bias; PyTorch's depthwise kernel adds it
    # itself (ATen/native/Convolution.cpp).
    if bias is not None and kind != "depthwise_convolution":
        found.append(Operator("elementwise", part, 0.0, written, written, calls=0))
    return found


def _convolution_backward(
    args: tuple[Any, ...], outputs: Sequence[Tensor], part: str
) -> list[Operator]:
    """Return one operator for each gradient: of the image, of the weights and of the bias."""
    gradient, image, weight = args[:3]
    transposed, groups, wanted = args[7], args[9], args[10]
    kind = _convolution_kind(weight, groups)
    weights_kind = "depthwise_weight_gradient" if kind == "depthwise_convolution" else kind
    pixels = image if transposed else gradient
    flops = 2.0 * _pixels(pixels) * weight.numel()
    on_cpu = {
        "vector_flops": _vector_flops(flops, weight, groups),
        "images": image.shape[0],
        "threads_alone": _threads_alone(image, weight, (*args[4], *args[6]), groups, transposed),
        "weight_bytes": size_bytes([weight]),
    }
    found: list[Operator] = []
    if wanted[0]:
        depth = round(flops / (2.0 * image.numel()))
        product = MatrixProduct(groups, _pixels(image), image.shape[1] // groups, depth)
        read = size_bytes([gradient, weight])
        found.append(Operator(kind, part, flops, read, size_bytes([image]), product, **on_cpu))
    if wanted[1]:
        rows = weight.shape[0] // groups
        product = MatrixProduct(groups, rows, weight.numel() // weight.shape[0], _pixels(pixels))
        read = size_bytes([gradient, image])
        written = on_cpu.pop("weight_bytes")
        found.append(
            Operator(weights_kind, part, flops, read, written, product, is_split=True, **on_cpu)
        )
    if wanted[2]:
        read = size_bytes([gradient])
        found.append(Operator("reduction", part, 0.0, read, size_bytes(outputs[-1:])))
    return [one if index == 0 else one._replace(calls=0) for index, one in enumerate(found)]


def _convolution_kind(weight: Tensor, groups: int) -> str:
    if groups == 1:
        return "pointwise_convolution" if weight[0, 0].numel() == 1 else "convolution"
    # Weights are (out, in / groups, ...), or (in, out / groups, ...) of a transposed one.
    return "depthwise_convolution" if weight.shape[1] == 1 else "grouped_convolution"


def _vector_flops(flops: float, weight: Tensor, groups: int) -> float:
    """Return the operations of a CPU, which fills whole vectors with channels if they are few.

    oneDNN lays channels out in blocks of a vector, but for the few of a picture.
    """
    outputs, inputs = weight.shape[0], weight.shape[1]
    if groups > 1:
        return flops
    if inputs > PICTURE_CHANNELS:
        flops *= max(1.0, VECTOR / inputs)
    return flops * max(1.0, VECTOR / outputs)


def _threads_alone(
    image: Tensor, weight: Tensor, strides: Sequence[int], groups: int, transposed: bool
) -> float:
    """Return up to how many threads a CPU multiplies matrices for each image; 0 for never.

    PyTorch leaves to oneDNN what is not small (``use_mkldnn`` in ATen/native/Convolution.cpp).
    """
    if transposed:
        return 0.0
    kernel = weight.shape[2:]
    if image.shape[0] == groups == 1 and min(kernel) <= 3 and image.numel() <= SMALL_IMAGE:
        return math.inf
    one_thread = math.prod(kernel) == max(strides) == 1 and image.shape[0] < IMAGES_OF_ONEDNN
    return 1.0 if one_thread else 0.0


def _pixels(images: Tensor) -> int:
    """Return the number of pixels in all images of a batch (N, C, ...)."""
    return images.numel() // images.shape[1] if images.numel() else 0


def _window_elements(name: str, args: tuple[Any, ...], out: Tensor) -> float:
    """Return how many numbers pooling compares or adds; the gradient of a maximum has one each."""
    if "adaptive" in name:
        return float(max(args[0].numel(), out.numel()))
    backward = "backward" in name
    results = args[0] if backward else out
    if backward and "max" in name:
        return float(results.numel())
    return float(results.numel() * math.prod(args[2 if backward else 1]))


def _product(left: Tensor, right: Tensor) -> MatrixProduct:
    """Describe (rows, depth) times (depth, columns), or a batch of these."""
    matrices = left.shape[0] if left.ndim == 3 else 1
    return MatrixProduct(matrices, left.shape[-2], right.shape[-1], left.shape[-1])


def _normalization_passes(name: str, args: tuple[Any, ...]) -> tuple[float, int]:
    """Return how often the tensors are read, and the number of kernels."""
    if "backward" in name:
        return 2.0, 2
    if "layer_norm" in name or "rms_norm" in name:
        return 1.0, 1
    # (input, weight, bias, mean, variance, training, ...) of native_batch_norm.
    infers = "no_training" in name or (name.startswith("native_batch_norm") and not args[5])
    return (1.0, 1) if infers else (2.0, 2)
