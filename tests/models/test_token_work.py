"""Work per token of language models, compared with sums from their configurations."""

import json

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from joulelab.models.characteristics import characterize, product_counter, training_mode, weightless
from joulelab.models.language_models import published_configuration
from joulelab.models.registry import build_model, language_config
from joulelab.models.token_work import active_parameters, count_token_work, next_token_scores

pytest.importorskip("transformers")


def active_weights(values):
    """Add up the weights that multiply one token, without the scores of the vocabulary."""
    if values["model_type"] == "gpt2":
        return values["n_layer"] * 12 * values["n_embd"] ** 2
    width, heads = values["hidden_size"], values["num_attention_heads"]
    head = values.get("head_dim", width // heads)
    query, key = heads * head, values["num_key_value_heads"] * head
    mlp = 3 * width * (values.get("moe_intermediate_size") or values["intermediate_size"])
    experts = values.get("num_experts") or values.get("num_local_experts") or 0
    if experts:
        mlp = values["num_experts_per_tok"] * mlp + width * experts
    return values["num_hidden_layers"] * (2 * width * query + 2 * width * key + mlp)


@pytest.mark.parametrize(
    "name",
    ["gpt2", "smollm2-135m", "qwen3-0.6b", "mixtral-8x7b", "olmoe-1b-7b", "gemma-2-2b"],
)
def test_the_work_of_published_models(name):
    with weightless():
        model = build_model(f"lm:{name}")
    tokens = 96
    work = count_token_work(model, tokens, name=name)
    sizes = language_config(f"lm:{name}")
    linear = active_weights(published_configuration(name))
    scores = sizes.hidden_size * sizes.vocabulary
    attention = 2 * sizes.layers * sizes.heads * sizes.head_dim  # per token that is looked at
    assert work.prefill_macs == tokens * (linear + tokens * attention) + scores
    assert work.prefill_macs_per_token == work.prefill_macs / tokens
    assert work.decode_macs == linear + (tokens + 1) * attention + scores
    assert work.cache_bytes_per_token == sizes.cache_values_per_token * model.dtype.itemsize
    whole = characterize(model, (tokens,), name=name)
    assert whole.macs == work.prefill_macs + (tokens - 1) * scores


@pytest.mark.parametrize(
    ("name", "active"),
    [("qwen3-30b-a3b", 3_353_032_704), ("mixtral-8x7b", 12_879_925_248), ("gpt2", 124_439_808)],
)
def test_active_parameters(name, active):
    # Without the experts that are not chosen: total - layers x (experts - chosen) x 3 matrices.
    # Published: 3.3 and 12.9 billion.
    with weightless():
        model = build_model(f"lm:{name}")
    assert active_parameters(model) == active


def test_a_mixture_that_runs_does_the_work_that_is_counted(tmp_path):
    values = published_configuration("mixtral-8x7b")
    values |= {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8,
               "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(values))
    model = build_model(f"hf:{tmp_path}", dtype="float32")
    before = model.get_experts_implementation()
    work = count_token_work(model, 24, name="small")
    assert model.get_experts_implementation() == before
    model.set_experts_implementation("eager")  # one product per expert that has tokens
    tokens = torch.randint(0, 64, (1, 24))
    with training_mode(model, False), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        with product_counter() as prefill:
            _, cache = next_token_scores(model, tokens)
        with product_counter() as decode:
            next_token_scores(model, tokens[:, -1:], cache)
    assert prefill.get_total_flops() // 2 == work.prefill_macs
    assert decode.get_total_flops() // 2 == work.decode_macs


def test_prefill_and_decode_score_as_the_whole_model_does():
    torch.manual_seed(0)
    model = build_model("lm:tiny").eval()
    tokens = torch.randint(0, 512, (2, 9))
    with torch.no_grad():
        expected = model(tokens).logits
        first, cache = next_token_scores(model, tokens[:, :8])
        second, _ = next_token_scores(model, tokens[:, 8:], cache)
    assert torch.allclose(first, expected[:, 7:8], atol=1e-6)
    assert torch.allclose(second, expected[:, 8:], atol=1e-6)


def test_attention_of_a_window_looks_back_no_further():
    with weightless():
        model = build_model("lm:mistral-7b-v0.1")
    within, beyond = (count_token_work(model, n, name="m").decode_macs for n in (4095, 6000))
    assert within == beyond
