"""Operators of language models counted from configurations, against traced ones and arithmetic."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.errors import UserError
from joulelab.models.characteristics import weightless
from joulelab.models.language_models import published_names
from joulelab.models.registry import build_model, language_config
from joulelab.models.token_work import count_token_work
from joulelab.predict.step_tracing import trace_step
from joulelab.predict.steps import Case
from joulelab.predict.token_steps import BLOCKS, count_token_step, distinct_experts

PROMPT = 96
DENSE = ("tiny", "gpt2", "llama-3.2-1b", "qwen3-0.6b", "gemma-2-2b", "mistral-7b-v0.3")
LLAMA = language_config("lm:llama-3.1-8b")


def count(name, phase, batch=1, inputs=PROMPT, outputs=0, precision="bf16", **options):
    case = Case(f"lm:{name}", phase, batch, (inputs,), outputs, precision)
    return count_token_step(language_config(case.model), case, **options)


def flops_by_kind(step, kind, part="forward"):
    return sum(
        one.flops * times
        for one, times in step.operators.items()
        if (one.kind, one.part) == (kind, part)
    )


@pytest.mark.parametrize("name", DENSE)
def test_products_equal_those_of_the_traced_model(name):
    """To the unit. The tracer counts masked entries of attention, which prefill skips."""
    with weightless():
        model = build_model(f"lm:{name}")
    work = count_token_work(model, PROMPT, name=name)
    prefill = count(name, "prefill")
    attention = flops_by_kind(prefill, "attention") * PROMPT / ((PROMPT + 1) / 2)
    assert flops_by_kind(prefill, "matrix_product") + attention == 2 * work.prefill_macs
    assert count(name, "decode", outputs=2).flops == 2 * work.decode_macs
    values = language_config(f"lm:{name}").cache_values_per_token
    assert values * model.dtype.itemsize == work.cache_bytes_per_token


def test_a_decode_step_reads_weights_once_and_each_cache():
    """Llama 3.1 8B has 8.03 G parameters, of which the 0.5 G of the embedding are only looked up,
    and 131,072 bytes of keys and values for each token."""
    products = 2 * (LLAMA_PARAMETERS - 128_256 * 4096 - 65 * 4096)
    for batch in (1, 64):
        step = count("llama-3.1-8b", "decode", batch, 1000, 2, served=True)
        read = {
            kind: sum(
                one.read_bytes * times for one, times in step.operators.items() if one.kind == kind
            )
            for kind in ("matrix_product", "attention")
        }
        assert read["matrix_product"] == pytest.approx(products, rel=0.001 * batch)
        assert read["attention"] == pytest.approx(batch * 1001 * 131_072, rel=0.01)


LLAMA_PARAMETERS = 8_030_261_248


def test_training_takes_three_forward_passes_and_updates_all_weights():
    prefill, train = count("llama-3.2-1b", "prefill", 2), count("llama-3.2-1b", "train", 2)
    head = 2.0 * 128_256 * 2048
    forward = flops_by_kind(prefill, "matrix_product") + 2 * (PROMPT - 1) * head
    assert flops_by_kind(train, "matrix_product") == forward
    assert flops_by_kind(train, "matrix_product", "backward") == 2 * forward
    attention = flops_by_kind(prefill, "attention")
    assert flops_by_kind(train, "attention", "backward") == 2.5 * attention
    (optimizer,) = (one for one in train.operators if one.kind == "optimizer")
    assert optimizer.read_bytes == pytest.approx(4 * 4 * 1_235_814_400, rel=1e-3)
    assert train.parameter_tensors == 16 * 9 + 2


@pytest.mark.parametrize("name", ["tiny", "qwen3-0.6b"])
def test_training_equals_the_traced_step_but_for_small_kernels(name):
    with weightless():
        model = build_model(f"lm:{name}")
    traced = trace_step(model, "train", 2, (PROMPT,), name=name)
    counted = count(name, "train", 2)
    # The tracer takes half of all entries of causal attention, without the half of the diagonal.
    attention = sum(flops_by_kind(counted, "attention", part) for part in ("forward", "backward"))
    assert counted.flops - attention / (PROMPT + 1) == traced.flops
    assert counted.parameter_tensors == traced.parameter_tensors
    for part in ("forward", "backward"):
        assert 0.6 < counted.calls(part) / traced.calls(part) < 1


def test_serving_is_decoding_with_the_prefills_of_new_requests():
    decode = count("llama-3.2-1b", "decode", 64, 200, 101, served=True)
    prefill = count("llama-3.2-1b", "prefill", 1, 200, served=True)
    serve = count("llama-3.2-1b", "serve", 64, 200, 101, served=True)
    assert serve.flops == pytest.approx(decode.flops + 0.64 * prefill.flops)
    assert serve.bytes == pytest.approx(decode.bytes + 0.64 * prefill.bytes)
    assert (serve.server_steps, serve.sequences) == pytest.approx((1.64, 64.64))
    assert Case("lm:x", "serve", 64, (200,), 101).tokens == pytest.approx(64.64)


@given(st.integers(1, 128), st.integers(1, 128), st.integers(1, 4096))
def test_a_batch_touches_no_fewer_experts_than_a_token_and_no_more_than_all(
    experts, chosen, tokens
):
    chosen = min(experts, chosen)
    found = distinct_experts(experts, chosen, tokens)
    assert chosen - 1e-9 <= found <= min(experts, chosen * tokens) + 1e-9


def test_experts_cost_arithmetic_by_token_and_traffic_by_batch():
    """Mixtral has 8 experts of 3 matrices of 4096 x 14336 in each of 32 layers, 2 per token."""
    expert = 3 * 4096 * 14336
    one, many = count("mixtral-8x7b", "decode", 1), count("mixtral-8x7b", "decode", 256)
    assert many.flops == pytest.approx(256 * one.flops)
    traffic = [one.bytes, many.bytes - 255 / 256 * activations(many)]
    assert traffic[1] - traffic[0] == pytest.approx(32 * 2 * 6 * expert, rel=0.02)


def activations(step):
    """Return the bytes of operators without weights, and of the rows of products."""
    return sum(
        times * (one.read_bytes + one.written_bytes - weights(one))
        for one, times in step.operators.items()
    )


def weights(operator):
    if operator.kind != "matrix_product":
        return 0
    matrices, _, columns, depth = operator.product
    return 2 * matrices * columns * depth


def test_a_window_limits_attention_and_cache_traffic():
    short, long = (count("mistral-7b-v0.1", "decode", 1, size, 2) for size in (4096, 32_000))
    assert flops_by_kind(short, "attention") == pytest.approx(
        flops_by_kind(long, "attention"), rel=1e-9
    )
    every_other, all_layers = (
        flops_by_kind(count(name, "decode", 1, 8000, 2), "attention") / heads
        for name, heads in (("gemma-2-2b", 26 * 8 * 256), ("llama-3.1-8b", 32 * 32 * 128))
    )
    assert every_other / all_layers == pytest.approx((4096 + 8001) / 2 / 8001, rel=1e-3)


def test_bytes_follow_the_precision():
    half, single = (count("gpt2", "decode", precision=one) for one in ("fp16", "fp32"))
    assert half.flops == single.flops
    assert 0.45 < half.bytes / single.bytes < 0.55
    assert {one.is_half for one in half.operators if one.kind == "matrix_product"} == {True}
    assert not any(one.is_half for one in single.operators)


def test_published_models_have_a_formula():
    assert {language_config(f"lm:{name}").kind for name in published_names()} <= set(BLOCKS)


@pytest.mark.parametrize(
    ("case", "options", "message"),
    [
        (Case("lm:gpt2", "infer", 1, (8,)), {}, "no phase 'infer'; known are train, prefill"),
        (Case("lm:gpt2", "train", 1, (8,), 0, "int8"), {}, "no precision 'int8'"),
        (Case("lm:gpt2", "prefill", 1, (3, 8, 8)), {}, "does not accept 3x8x8"),
        (Case("lm:gpt2", "serve", 1, (8,), 1), {}, "two or more tokens"),
        (Case("lm:gpt2", "decode", 1, (1020,), 20), {}, "accepts 1,024 tokens, not 1,040"),
        (Case("lm:gpt2", "train", 1, (8,)), {"served": True}, "does not train"),
    ],
)
def test_what_cannot_be_counted_is_refused(case, options, message):
    with pytest.raises(UserError, match=message):
        count_token_step(language_config("lm:gpt2"), case, **options)


def test_an_unknown_architecture_is_refused():
    import dataclasses

    config = dataclasses.replace(LLAMA, kind="abacus")
    with pytest.raises(UserError, match="no formula for the architecture 'abacus'"):
        count_token_step(config, Case("hf:abacus", "prefill", 1, (8,)))


@given(st.sampled_from(("decode", "serve")), st.integers(1, 512), st.integers(2, 2000))
def test_more_sequences_never_cost_a_step_less(phase, batch, outputs):
    one, two = (
        count("llama-3.1-8b", phase, size, 100, outputs, served=True) for size in (batch, batch + 1)
    )
    assert two.flops > one.flops
    assert two.bytes > one.bytes
    assert math.isclose(two.launches, one.launches, rel_tol=2 / outputs + 1e-9)
