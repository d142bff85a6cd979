"""``joulelab models``, as a user runs it."""

import json
import sys

import pytest


def test_json_has_the_documented_keys(run):
    code, out, err = run("models", "lenet", "LeNet", "PNASNetA", "--json")
    assert (code, err) == (0, "")
    first, second = json.loads(out)
    assert first == {
        "model": "LeNet",
        "input": "3x32x32",
        "parameters": 62006,
        "trainable_parameters": 62006,
        "parameter_bytes": 248024,
        "buffer_bytes": 0,
        "size_bytes": 248024,
        "macs": 651720,
        "macs_per_parameter": 651720 / 62006,
    }
    assert (second["model"], second["macs"]) == ("PNASNetA", 28037856)


def test_without_torch_the_error_is_one_line_with_a_hint(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "pip install 'joulelab[study]'" in refused("models")


def test_the_table_names_all_16_and_the_other_forms(printed):
    out = printed("models")
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.split()}
    assert rows["ResNeXt29_2x64d"] == ["3x32x32", "9,128,778", "36.6", "1,409", "154"]
    assert rows["LeNet"] == ["3x32x32", "62,006", "0.248", "0.652", "10.5"]
    assert sum(len(cells) == 5 and cells[0] == "3x32x32" for cells in rows.values()) == 16
    assert "lm:NAME, torchvision:NAME, timm:NAME, hf:CONFIG, package.module:factory" in out


def test_each_model_gets_the_input_that_it_is_made_for(run, refused):
    pytest.importorskip("transformers")
    names = ["LeNet", "torchvision:vit_b_16", "torchvision:inception_v3", "hf:bert", "hf:vit"]
    code, out, err = run("models", *names, "--json")
    assert (code, err) == (0, "")
    inputs = {row["model"]: row["input"] for row in json.loads(out)}
    assert list(inputs.values()) == ["3x32x32", "3x224x224", "3x299x299", "128", "3x224x224"]
    refused("models", "hf:whisper")


def test_the_work_of_a_language_model_is_counted_by_tokens(printed, tmp_path):
    pytest.importorskip("transformers")
    # By hand, per token: 2 layers x (4 x 64^2 of the attention's projections + 3 x 64 x 160 of the
    # MLP) + 64 x 1000 of the scores; and 2 layers x 2 products of 32 x 32 x 64 for the attention.
    config = tmp_path / "config.json"
    config.write_text(
        '{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 1000,'
        '"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2,'
        '"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 256}'
    )
    (row,) = json.loads(printed("models", f"hf:{config}", "--input", "32", "--json"))
    by_token = 2 * (4 * 64**2 + 3 * 64 * 160) + 64 * 1000
    assert row["macs"] == 32 * by_token + 2 * 2 * 32 * 32 * 64


def test_a_model_that_translates_reads_and_writes_the_tokens(printed, tmp_path):
    pytest.importorskip("transformers")
    # By hand, per token: 4 x 32^2 for each attention (1 in the encoder, 2 in the decoder), 2 x 32
    # x 64 for each MLP and 32 x 100 for the scores; and 3 x 2 products of 16 x 16 x 32.
    config = tmp_path / "config.json"
    config.write_text(
        '{"architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "vocab_size": 100,'
        '"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_decoder_layers": 1,'
        '"num_heads": 4}'
    )
    out = printed("models", f"hf:{config}", "--input", "16", "--json")
    (row,) = json.loads(out)
    by_token = 3 * 4 * 32**2 + 2 * 2 * 32 * 64 + 32 * 100
    assert row["macs"] == 16 * by_token + 3 * 2 * 16 * 16 * 32


def test_a_language_model_has_work_per_token(run):
    pytest.importorskip("transformers")
    code, out, err = run("models", "lm:tiny", "--input", "64", "--json")
    assert (code, err) == (0, "")
    (row,) = json.loads(out)
    # 2 layers x (2 x 64 x (64 + 32) of attention's projections + 3 x 64 x 192 of the MLP), and
    # 2 layers x 2 products of 64 tokens x 64; 64 x 512 for the scores.
    linear, attention, scores = 2 * (2 * 64 * 96 + 3 * 64 * 192), 2 * 2 * 64 * 64, 64 * 512
    assert row["macs"] == 64 * (linear + attention + scores)
    assert row["prefill_macs"] == 64 * (linear + attention) + scores
    assert row["decode_macs"] == linear + attention + attention // 64 + scores
    assert row["active_parameters"] == row["parameters"] == 131_392
    assert row["cache_bytes_per_token"] == 2 * 2 * 2 * 16 * 4
    assert row["weights"] == "random"


def test_the_table_of_language_models_says_that_weights_are_random(printed):
    pytest.importorskip("transformers")
    out = printed("models", "LeNet", "lm:tiny")
    rows = [line.split() for line in out.splitlines()]
    assert ["LeNet", "3x32x32", "62,006", "0.248", "0.652", "10.5"] in rows
    assert ["lm:tiny", "128", "131,392", "0.131", "0.526", "0.131", "0.164", "0.512"] in rows
    assert "The weights of lm:tiny are random" in out


def test_input_and_classes_reach_the_model(printed):
    (row,) = json.loads(
        printed("models", "LeNet", "--input", "1x32x32", "--classes", "100", "--json")
    )
    assert row["parameters"] == 62006 - 2 * 6 * 25 + 90 * 85


def test_a_model_without_parameters_has_no_ratio(printed):
    out = printed("models", "torch.nn:Identity", "--json")
    assert json.loads(out)[0]["macs_per_parameter"] is None
    out = printed("models", "torch.nn:Identity")
    assert "nan" not in out.lower()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ResNet81"], "did you mean ResNet18?"),
        (["VGG16", "LeNet", "--input", "3x64x64"], "LeNet does not accept 3x64x64: "),
        (["VGG16", "--input", "3x8x8"], "VGG16 does not accept 3x8x8"),
        (["LeNet", "--input", "32x32"], "LeNet does not accept 32x32"),
        (["--input", "0x32x32"], "'0x32x32' is not the shape of a sample"),
        (["lm:gpt2", "--input", "1025"], "lm:gpt2 accepts 1,024 tokens, not 1,025"),
        (["lm:gtp2"], "no model 'lm:gtp2'; did you mean gpt2?"),
        (["--classes", "0"], "--classes"),
        (["--json", "no.such.module:Net"], "No module named"),
    ],
)
def test_invalid_requests_exit_with_2_and_one_line(refused, arguments, message):
    assert message in refused("models", *arguments)
