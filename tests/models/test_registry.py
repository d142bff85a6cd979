"""Names of models: the zoo, torchvision, timm, transformers, and anything importable."""

import json
import subprocess
import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from joulelab.errors import UnknownModelError, UserError
from joulelab.models.registry import (
    ZOO,
    build_model,
    canonical_name,
    parse_input_shape,
    zoo_names,
)


class Net(nn.Module):
    def __init__(self, num_classes=10, width=4):
        super().__init__()
        self.num_classes, self.width = num_classes, width


def everything(**options):
    net = nn.Identity()
    net.options = options
    return net


def positional(num_classes=3, /):
    net = nn.Identity()
    net.num_classes = num_classes
    return net


def number():
    return 3


def failing():
    raise RuntimeError("no such luck")


@pytest.fixture
def mine(monkeypatch):
    module = types.ModuleType("mine")
    module.Net, module.everything, module.positional = Net, everything, positional
    module.number, module.failing, module.constant = number, failing, 3
    monkeypatch.setitem(sys.modules, "mine", module)


def test_the_papers_models_in_its_order():
    assert zoo_names() == [
        "SimpleDLA", "DPN26", "DenseNet121", "EfficientNetB0", "GoogLeNet", "LeNet", "MobileNet",
        "MobileNetV2", "PNASNetB", "PreActResNet18", "RegNetX_200MF", "ResNet18",
        "ResNeXt29_2x64d", "SENet18", "ShuffleNetV2", "VGG16",
    ]  # fmt: skip
    assert list(ZOO)[:16] == zoo_names()


@given(st.sampled_from(list(ZOO)), st.data())
def test_case_and_separators_do_not_matter(name, data):
    cased = "".join(data.draw(st.sampled_from([c.lower(), c.upper()])) for c in name)
    separator = data.draw(st.sampled_from(["", "-", "_", " "]))
    assert canonical_name(cased.replace("_", separator)) == name
    assert canonical_name(canonical_name(name)) == name


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("PNASNet", "PNASNetB"),
        ("resnet-18", "ResNet18"),
        ("EfficientNet_B0", "EfficientNetB0"),
        ("shufflenetv2 0.5x", "ShuffleNetV2_0.5"),
        ("MobileNet v1", "MobileNet"),
        ("TorchVision: ResNet18", "torchvision:ResNet18"),
        ("My.Package:Net", "My.Package:Net"),
    ],
)
def test_canonical_names(name, canonical):
    assert canonical_name(name) == canonical


@pytest.mark.parametrize("text", ["0x32x32", "3x32x٣", "3,32,32", "3x32x", "", "1x2x3x4x5"])
def test_wrong_input_shapes_are_refused(text):
    with pytest.raises(UserError, match="is not the shape of a sample"):
        parse_input_shape(text)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ResNet81", r"^no model 'ResNet81'; did you mean ResNet18\? \(or lm:NAME"),
        ("xyz", "choose from SimpleDLA"),
        ("", "no model ''"),
        ("torchvision:", "a part is empty"),
        (":x", "a part is empty"),
        ("torchvision:resnet81", r"torchvision has no model 'resnet81'; did you mean .*resnet18"),
        ("torchvision:qqqqqq", "list_models"),
        ("no_such_package.at.all:Net", "No module named 'no_such_package'.*PYTHONPATH"),
        ("..relative:Net", "importing ..relative failed"),
        ("mine:Ned", r"mine has no 'Ned'; did you mean Net\?"),
        ("mine:constant", "it is a int, which cannot be called"),
    ],
)
@pytest.mark.usefixtures("mine")
def test_errors_for_unknown_models_are_one_line(name, message):
    with pytest.raises(UnknownModelError, match=message) as caught:
        build_model(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mine:failing", {}, "cannot build mine:failing: RuntimeError: no such luck"),
        ("mine:number", {}, "it gives a int, not an nn.Module"),
        ("mine:Net", {"depth": 3}, "cannot build mine:Net: TypeError: .*'depth'"),
        ("LeNet", {"depth": 3}, "cannot build LeNet: TypeError: .*'depth'"),
        ("LeNet", {"num_classes": 0}, "must be 1 or more"),
        ("torchvision:resnet18", {"in_channels": 1}, "accept 3 channels, not 1"),
        ("torchvision:resnet18", {"weights": "DEFAULT"}, "weights may download"),
        ("torchvision:resnet18", {"depth": 3}, "cannot build torchvision:resnet18: TypeError"),
    ],
)
@pytest.mark.usefixtures("mine", "no_network")
def test_models_that_cannot_be_built_as_asked(name, options, message):
    with pytest.raises(UserError, match=message):
        build_model(name, **options)


@pytest.mark.usefixtures("mine")
def test_a_factory_gets_the_arguments_it_accepts():
    assert build_model("mine:Net", num_classes=7, in_channels=1).num_classes == 7
    assert build_model("mine:Net", width=8).width == 8
    given = build_model("mine:everything", num_classes=7, in_channels=1, depth=3).options
    assert given == {"num_classes": 7, "in_channels": 1, "depth": 3}
    assert build_model("mine:positional", num_classes=7).num_classes == 3
    assert isinstance(build_model("torch.nn:Identity"), nn.Identity)


@pytest.mark.usefixtures("no_network")
def test_torchvision_without_weights():
    model = build_model("torchvision:resnet18", num_classes=7)
    assert model.fc.out_features == 7
    segmenter = build_model("torchvision:lraspp_mobilenet_v3_large", num_classes=7)
    assert isinstance(segmenter, nn.Module)


def test_timm_builds_models_without_weights(monkeypatch):
    asked = {}

    def create_model(name, **settings):
        asked.update(settings, name=name)
        return nn.Identity()

    timm = types.ModuleType("timm")
    timm.create_model, timm.is_model = create_model, lambda name: name == "vit_tiny"
    timm.list_models = lambda: ["vit_tiny", "vit_base"]
    monkeypatch.setitem(sys.modules, "timm", timm)
    build_model("timm:vit_tiny", num_classes=7, in_channels=1, img_size=32)
    assert asked == {
        "name": "vit_tiny",
        "pretrained": False,
        "num_classes": 7,
        "in_chans": 1,
        "img_size": 32,
    }
    with pytest.raises(UnknownModelError, match=r"did you mean timm:vit_tiny\?"):
        build_model("timm:vit_tinny")
    with pytest.raises(UnknownModelError, match="timm has no model"):
        build_model("timm:hf-hub:someone/model")
    with pytest.raises(UserError, match="pretrained may download"):
        build_model("timm:vit_tiny", pretrained=True)


def test_a_missing_timm_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match="run pip install timm"):
        build_model("timm:resnet18")


def test_names_are_checked_without_torch():
    code = (
        "import sys; from joulelab.models.registry import canonical_name, zoo_names;"
        "canonical_name('PNASNet'); canonical_name('torchvision:x'); zoo_names();"
        "assert not {'torch', 'torchvision'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_configuration_without_transformers_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UnknownModelError, match=r"run pip install 'joulelab\[study\]'"):
        build_model("hf:bert")


class TestHuggingFace:
    """Where transformers is installed. Nothing is downloaded."""

    @pytest.fixture(autouse=True)
    def installed(self, monkeypatch):
        pytest.importorskip("transformers")
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def test_a_path_and_a_type(self, tmp_path):
        config = {"model_type": "bert", "num_hidden_layers": 1, "hidden_size": 32,
                  "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 50,
                  "architectures": ["BertForSequenceClassification"]}  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps(config))
        model = build_model(f"hf:{tmp_path}")
        assert type(model).__name__ == "BertForSequenceClassification"
        assert type(build_model(f"hf:{tmp_path / 'config.json'}")) is type(model)
        assert build_model("hf:resnet", num_classes=7).config.num_labels == 7

    def test_an_unknown_one(self):
        with pytest.raises(UnknownModelError, match="did you mean hf:bert"):
            build_model("hf:berrt")
