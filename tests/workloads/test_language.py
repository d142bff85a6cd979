"""Language models in training, prefill and decoding."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from joulelab.errors import UserError, WorkloadError
from joulelab.workloads.decoder import Decoder
from joulelab.workloads.language import GenerateSettings, LanguageTrainSettings, generate, train
from joulelab.workloads.phases import CACHES
from joulelab.workloads.torch_runtime import build_seeded


def llama(attention="sdpa"):
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,  # so that the most likely tokens differ
    )
    return build_seeded(
        lambda: LlamaForCausalLM._from_config(config, attn_implementation=attention), 0
    )


def gpt2():
    config = GPT2Config(
        vocab_size=128, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.5,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return build_seeded(lambda: GPT2LMHeadModel._from_config(config), 0)


def training(**changes):
    usual = {
        "batch_size": 4, "sequences": 18, "sequence_tokens": 16, "warmup_steps": 1,
        "optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.0,
    }  # fmt: skip
    return LanguageTrainSettings(**(usual | changes))


def generating(**changes):
    usual = {"batch_size": 4, "sequences": 18, "prompt_tokens": 16, "output_tokens": 6, "passes": 1}
    return GenerateSettings(**(usual | {"warmup_steps": 1} | changes))


OLD_GPT2 = not getattr(GPT2LMHeadModel, "_supports_cache_class", True)
NEW_ONLY = pytest.mark.skipif(OLD_GPT2, reason="this transformers has GPT-2 with older caches")


def weights(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_training_counts_whole_batches_of_sequences(recorder):
    result = train(llama(), training(epochs=2), recorder)
    # 18 sequences are 4 batches of 4: the last 2 are left out
    assert (result.samples, result.steps, result.tokens) == (32, 8, 32 * 16)
    assert [epoch.complete for epoch in result.epochs] == [True, True]
    assert result.epochs[1].loss < result.epochs[0].loss
    assert result.accuracy_pct is None
    assert recorder.balanced
    assert recorder.spans("warmup") == [{"phase": "train"}]
    assert recorder.spans("epoch") == [{"phase": "train", "index": index} for index in (0, 1)]


def test_the_loss_is_that_of_transformers():
    model = llama()
    result = train(model, training(steps=1, learning_rate=1e-12, batch_size=18), None)
    tokens = torch.randint(
        128, (18, 16), generator=torch.Generator().manual_seed(_seed_of_sequences())
    )
    with torch.no_grad():
        expected = llama()(input_ids=tokens, labels=tokens).loss.item()
    assert result.loss == pytest.approx(expected, rel=1e-5)


def _seed_of_sequences():
    from joulelab.workloads.torch_runtime import stream_seed

    return stream_seed(0, 0)


@pytest.mark.parametrize("warmup_steps", [0, 3])
def test_the_warmup_changes_nothing(warmup_steps):
    first, second = llama(), llama()
    losses = [
        [epoch.loss for epoch in train(model, training(epochs=2, warmup_steps=n), None).epochs]
        for model, n in ((first, 1), (second, warmup_steps))
    ]
    assert losses[0] == losses[1]
    assert all(map(torch.equal, weights(first), weights(second)))


def test_accumulated_batches_train_like_one_batch():
    whole, parts = llama(), llama()
    one = train(whole, training(batch_size=8, steps=2), None)
    four = train(parts, training(batch_size=2, gradient_accumulation_steps=4, steps=2), None)
    assert (four.samples, four.steps, four.tokens) == (one.samples, one.steps, one.tokens)
    assert four.loss == pytest.approx(one.loss, rel=1e-4)
    for a, b in zip(weights(whole), weights(parts), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_training_is_in_single_precision_with_autocast():
    model = llama().to(torch.bfloat16)
    result = train(model, training(steps=2, precision="bf16"), None)
    assert result.loss > 0
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_loss_that_overflows_is_a_failure():
    with pytest.raises(WorkloadError) as caught:
        train(llama(), training(epochs=4, learning_rate=1e30), None)
    assert caught.value.kind == "non_finite_loss"


@pytest.mark.parametrize("cache", CACHES)
def test_prefill_counts_the_tokens_of_prompts(recorder, cache):
    result = generate("prefill", llama(), generating(passes=2, cache=cache), recorder)
    assert (result.phase, result.samples, result.steps) == ("prefill", 32, 8)
    assert result.tokens == 32 * 16
    assert result.loss is None
    assert recorder.spans("epoch") == [{"phase": "prefill", "index": index} for index in (0, 1)]


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("make", [llama, pytest.param(gpt2, marks=NEW_ONLY)])
def test_decoding_writes_the_most_likely_tokens(monkeypatch, make, cache):
    """Each step of a phase starts from the same prompts, and writes what the model would."""
    written, prompts = [], []
    next_tokens = Decoder.next_tokens

    def observed(self, tokens, kept, position):
        found = next_tokens(self, tokens, kept, position)
        prompts.append(tokens) if position == 0 else written.append(found)
        return found

    monkeypatch.setattr(Decoder, "next_tokens", observed)
    result = generate("decode", make(), generating(cache=cache, warmup_steps=0), None)
    assert (result.samples, result.steps, result.tokens) == (16, 4, 16 * 6)
    sequence, model = prompts[0], make().eval()
    with torch.inference_mode():
        for _ in range(7):
            logits = model(input_ids=sequence, use_cache=False).logits[:, -1:]
            sequence = torch.cat([sequence, logits.argmax(-1)], dim=1)
    expected = sequence[:, 17:]
    assert len(set(expected.flatten().tolist())) > 2
    for step in range(4):
        assert torch.equal(torch.cat(written[6 * step : 6 * step + 6], dim=1), expected)


def test_the_prefill_before_decoding_is_outside_of_its_span(recorder, monkeypatch):
    positions = []
    next_tokens = Decoder.next_tokens

    def observed(self, tokens, cache, position):
        open_spans = len([call for call in recorder.calls if call[0] == "begin"])
        positions.append((position, open_spans))
        return next_tokens(self, tokens, cache, position)

    monkeypatch.setattr(Decoder, "next_tokens", observed)
    generate("decode", llama(), generating(warmup_steps=0), recorder)
    assert [call[1] for call in recorder.calls] == ["warmup", "warmup", "epoch", "epoch"]
    assert positions[0] == (0, 1)  # within the warm-up
    assert {(position > 0, spans) for position, spans in positions[1:]} == {(True, 2)}


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.half)])
def test_weights_have_the_precision_of_inference(precision, dtype):
    model = llama()
    generate("decode", model, generating(precision=precision, output_tokens=1), None)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


def test_a_phase_may_be_ended_from_outside(recorder, clock):
    steps = []
    observed = generate(
        "decode",
        llama(),
        generating().endless(3600.0),
        recorder,
        announce_steps=True,
        is_over=lambda: len(recorder.spans("step")) >= 6 or steps.append(0),
        clock=clock,
    )
    assert observed.steps == 6
    assert not observed.epochs[-1].complete
    assert recorder.spans("step")[0] == {"phase": "decode", "index": 0, "samples": 4}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 19}, "a step of 19 sequences: there are 18"),
        ({"prompt_tokens": 60}, "a sequence of 66 tokens: the model accepts 64"),
        ({"cache": "dynamik"}, "did you mean dynamic"),
        ({"compile": True}, "choose cache static"),
        ({"output_tokens": 0}, "output_tokens is 0"),
        ({"precision": "tf32"}, "TF32 is a number format of CUDA devices"),
    ],
)
def test_what_cannot_be_run_is_refused(change, message):
    with pytest.raises(UserError) as caught:
        generate("decode", llama(), generating(**change), None)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "fp16"}, "precision is 'fp16'"),
        ({"gradient_accumulation_steps": 5}, "a step of 20 sequences: there are 18"),
        ({"sequence_tokens": 1}, "sequence_tokens is 1"),
        ({"epochs": 1, "steps": 1}, "epochs and steps are both given"),
    ],
)
def test_training_that_cannot_be_run_is_refused(change, message):
    with pytest.raises(UserError) as caught:
        train(llama(), training(**change), None)
    assert message in str(caught.value)


def test_a_model_of_images_is_refused(network):
    with pytest.raises(UserError, match="Sequential is no language model"):
        generate("prefill", network, generating(), None)


def test_an_architecture_without_caches_is_refused(monkeypatch):
    monkeypatch.setattr(LlamaForCausalLM, "_supports_cache_class", False, raising=False)
    with pytest.raises(UserError, match=r"accepts no dynamic cache.* pip install --upgrade"):
        generate("decode", llama(), generating(), None)
    assert generate("decode", llama(), generating(cache="none"), None).tokens == 16 * 6


def test_eager_attention_gives_the_same_logits():
    tokens = torch.arange(32).view(2, 16)
    with torch.inference_mode():
        both = [llama(one).eval()(input_ids=tokens).logits for one in ("sdpa", "eager")]
    torch.testing.assert_close(*both, rtol=1e-3, atol=1e-3)


def test_random_states_are_restored():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    generate("decode", llama(), generating(), None)
    train(llama(), training(steps=1), None)
    assert torch.equal(torch.rand(3), expected)
