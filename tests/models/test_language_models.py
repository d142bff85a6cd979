"""Published language models: their configurations, weights and sizes."""

import json
from pathlib import Path

import pytest
import torch

from joulelab.errors import UnknownModelError, UserError
from joulelab.models.characteristics import weightless
from joulelab.models.language_models import LanguageConfig, published_configuration, published_names
from joulelab.models.registry import (
    build_model,
    canonical_name,
    default_input_shape,
    has_random_weights,
    language_config,
)

pytest.importorskip("transformers")

# Parameters that the model cards or the published safetensors state.
PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "mistral-7b-v0.1": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552,
    "mixtral-8x7b": 46_702_792_704,
    "olmoe-1b-7b": 6_919_161_856,
    "gemma-2-2b": 2_614_341_888,
    "gemma-2-9b": 9_241_705_984,
    "tiny": 131_392,
}


def summed_parameters(values):
    """Add up the shapes that a configuration implies, without the code under test."""
    kind = values["model_type"]
    if kind == "gpt2":
        width, vocabulary = values["n_embd"], values["vocab_size"]
        attention = width * 3 * width + 3 * width + width * width + width
        mlp = width * 4 * width + 4 * width + 4 * width * width + width
        block = attention + mlp + 2 * 2 * width
        embeddings = vocabulary * width + values["n_positions"] * width
        return embeddings + values["n_layer"] * block + 2 * width
    width, heads = values["hidden_size"], values["num_attention_heads"]
    head = values.get("head_dim", width // heads)
    query, key = heads * head, values["num_key_value_heads"] * head
    attention = width * query + 2 * width * key + query * width
    experts = values.get("num_experts") or values.get("num_local_experts") or 0
    mlp = 3 * width * (values.get("moe_intermediate_size") or values["intermediate_size"])
    if experts:
        mlp = experts * mlp + width * experts  # and the router
    norms = 4 * width if kind == "gemma2" else 2 * width
    norms += {"qwen3": 2 * head, "qwen3_moe": 2 * head, "olmoe": query + key}.get(kind, 0)
    matrices = 1 if values["tie_word_embeddings"] else 2
    embeddings = matrices * values["vocab_size"] * width
    return embeddings + values["num_hidden_layers"] * (attention + mlp + norms) + width


def test_every_published_model_has_a_known_number_of_parameters():
    assert sorted(PUBLISHED) == sorted(published_names())


def test_the_documentation_lists_every_published_model():
    page = (Path(__file__).parents[2] / "docs/reference/models.md").read_text("utf-8")
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| `lm:")]
    stated = {cells[1].strip(): cells[3].strip() for cells in rows if len(cells) > 5}
    assert stated == {f"`lm:{name}`": f"{count:,}" for name, count in PUBLISHED.items()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_equal_the_published_number(name):
    with weightless():
        model = build_model(f"lm:{name}")
    assert all(parameter.is_meta for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[name]
    assert summed_parameters(published_configuration(name)) == PUBLISHED[name]


@pytest.mark.parametrize("dtype", [None, "bfloat16", torch.float64])
def test_weights_are_created_in_the_wanted_type(dtype):
    torch.manual_seed(0)
    model = build_model("lm:tiny", dtype=dtype)
    wanted = {None: torch.float32, "bfloat16": torch.bfloat16}.get(dtype, dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {wanted}
    assert torch.get_default_dtype() == torch.float32
    tokens = torch.randint(0, 512, (2, 8))
    scores = model(tokens).logits
    assert scores.shape == (2, 8, 512)
    assert torch.isfinite(scores).all()
    assert scores.std() > 0.01
    assert model.training
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_random_weights_differ_and_follow_the_seed():
    def weights(seed):
        torch.manual_seed(seed)
        return build_model("lm:tiny").state_dict()

    first, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    down = first["model.layers.0.mlp.down_proj.weight"]
    assert not torch.equal(down, other["model.layers.0.mlp.down_proj.weight"])
    assert not torch.equal(down, first["model.layers.1.mlp.down_proj.weight"])
    assert down.std().item() == pytest.approx(0.02, rel=0.05)
    assert (first["model.norm.weight"] == 1).all()


def test_positions_are_those_of_the_configuration():
    # Llama 3's rotary frequencies: unscaled above, divided by the factor below (arXiv 2407.21783).
    with weightless():
        model = build_model("lm:llama-3.2-1b")
    frequencies = model.model.rotary_emb.inv_freq
    assert frequencies[0].item() == 1
    assert frequencies[-1].item() == pytest.approx(500_000 ** (-62 / 64) / 32, rel=1e-6)


def test_sizes_are_known_without_building():
    assert language_config("lm:Llama-3.1-8B") == LanguageConfig(
        kind="llama",
        layers=32,
        hidden_size=4096,
        heads=32,
        kv_heads=8,
        head_dim=128,
        vocabulary=128_256,
        max_tokens=131_072,
        sliding_window=None,
        experts=0,
        experts_per_token=0,
        feed_forward=14_336,
        gated=True,
        tied_embeddings=False,
        dtype="bfloat16",
    )
    assert language_config("lm:llama-3.1-8b").cache_values_per_token == 65_536
    mixture = language_config("lm:qwen3-30b-a3b")
    assert (mixture.experts, mixture.experts_per_token) == (128, 8)
    assert language_config("lm:mixtral-8x7b").experts == 8
    assert language_config("lm:gpt2").max_tokens == 1024
    assert language_config("LeNet") is None
    assert language_config("hf:bert") is None
    assert language_config("hf:gpt2").layers == 12


def test_names():
    assert canonical_name("LM:SmolLM2-135M") == "lm:smollm2-135m"
    assert canonical_name("lm:mistral-7b") == "lm:mistral-7b-v0.3"
    assert default_input_shape("lm:gpt2") == (128,)
    with pytest.raises(UnknownModelError, match=r"'lm:lama-3.2-1b'; did you mean llama-3.2-1b"):
        canonical_name("lm:lama-3.2-1b")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"dtype": "bf17"}, "'bf17' is not a data type"), ({"depth": 3}, "'depth'")],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=f"cannot build lm:tiny: .*{message}"):
        build_model("lm:tiny", **options)


def test_a_configuration_of_other_names_is_read():
    # Falcon-7B's and GPT-J's configurations, in part.
    falcon = LanguageConfig.from_configuration(
        {"model_type": "falcon", "num_hidden_layers": 32, "hidden_size": 4544, "multi_query": True,
         "num_attention_heads": 71, "vocab_size": 65024, "num_kv_heads": 71}
    )  # fmt: skip
    assert (falcon.kv_heads, falcon.head_dim, falcon.max_tokens) == (1, 64, None)
    gptj = LanguageConfig.from_configuration(
        {"model_type": "gptj", "n_layer": 28, "n_embd": 4096, "n_head": 16, "vocab_size": 50400,
         "n_positions": 2048, "tie_word_embeddings": False, "torch_dtype": "float16"}
    )  # fmt: skip
    assert (gptj.layers, gptj.max_tokens, gptj.dtype) == (28, 2048, "float16")
    assert not gptj.tied_embeddings
    with pytest.raises(UserError, match="its configuration has no num_attention_heads"):
        LanguageConfig.from_configuration({"model_type": "mamba", "hidden_size": 768})


@pytest.mark.usefixtures("no_network")
class TestFolder:
    """Language models of ``hf:FOLDER``, with weights and without."""

    @pytest.fixture
    def folder(self, tmp_path):
        torch.manual_seed(3)
        build_model("lm:tiny").save_pretrained(tmp_path)
        return tmp_path

    def test_weights_of_the_folder_are_loaded(self, folder):
        torch.manual_seed(3)
        saved = build_model("lm:tiny").state_dict()
        loaded = build_model(f"hf:{folder}")
        assert all(torch.equal(tensor, saved[name]) for name, tensor in loaded.state_dict().items())
        assert loaded.training
        assert not has_random_weights(f"hf:{folder}")
        assert build_model(f"hf:{folder}", dtype="bfloat16").dtype == torch.bfloat16
        with weightless():
            assert build_model(f"hf:{folder}").device.type == "meta"

    def test_a_configuration_alone_gets_random_weights(self, folder):
        torch.manual_seed(4)
        name = f"hf:{folder / 'config.json'}"
        assert has_random_weights(name)
        weights = build_model(name).state_dict()
        assert not torch.equal(
            weights["model.embed_tokens.weight"],
            build_model(f"hf:{folder}").state_dict()["model.embed_tokens.weight"],
        )
        assert language_config(name).layers == 2
        assert has_random_weights("LeNet")
        assert has_random_weights("lm:tiny")

    def test_pickled_weights_are_refused(self, folder):
        weights = folder / "model.safetensors"
        weights.rename(folder / "pytorch_model.bin")
        with pytest.raises(UserError, match=r"pickled weights can run any code; convert"):
            build_model(f"hf:{folder}")
        assert build_model(f"hf:{folder / 'config.json'}").dtype == torch.float32

    def test_incomplete_weights_are_refused(self, folder):
        safetensors = pytest.importorskip("safetensors.torch")
        path = folder / "model.safetensors"
        tensors = safetensors.load_file(path)
        del tensors["model.norm.weight"]
        safetensors.save_file(tensors, path, metadata={"format": "pt"})
        with pytest.raises(
            UserError, match=r"its weights lack 1 tensor, first model\.norm\.weight"
        ):
            build_model(f"hf:{folder}")

    def test_quantised_weights_are_refused(self, folder):
        path = folder / "config.json"
        stated = json.loads(path.read_text())
        stated["quantization_config"] = {"quant_method": "gptq", "bits": 4}
        path.write_text(json.dumps(stated))
        with pytest.raises(UserError, match=r"its weights are quantised \(gptq\); to build it"):
            build_model(f"hf:{folder}")

    def test_code_of_the_folder_is_not_run(self, folder):
        path = folder / "config.json"
        stated = json.loads(path.read_text())
        stated |= {"model_type": "unheard", "auto_map": {"AutoConfig": "mine.Config"}}
        path.write_text(json.dumps(stated))
        (folder / "mine.py").write_text("raise AssertionError('this ran')")
        with pytest.raises(UserError, match="cannot build hf:") as caught:
            build_model(f"hf:{folder}")
        assert "this ran" not in str(caught.value)
