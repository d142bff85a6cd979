"""Plans: what is accepted, and how errors are explained."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.errors import PlanError
from joulelab.models.registry import zoo_names
from joulelab.study.plan import Plan
from joulelab.study.plan_file import load_plan, parse, preset_names

MINIMAL = 'name = "a"\nmodels = ["LeNet"]\n'


def plan_of(text: str) -> Plan:
    return parse(tomllib.loads(text), "plan.toml")


def test_defaults_are_the_papers():
    plan = plan_of(MINIMAL)
    assert plan.phases == ["train", "infer"]
    assert plan.factors.batch_size == [128]
    assert plan.train.learning_rate == 0.001
    assert plan.train.momentum == 0.9
    assert plan.train.weight_decay == 5e-4
    assert (plan.train.epochs, plan.train.steps, plan.train.seconds) == (1, None, None)
    assert (plan.infer.passes, plan.infer.steps, plan.infer.seconds) == (5, None, None)


def test_paper_stands_for_its_sixteen_models():
    assert plan_of('name = "a"\nmodels = ["paper"]').models == zoo_names()
    assert len(zoo_names()) == 16


def test_a_single_level_is_a_list_of_one():
    plan = plan_of(MINIMAL + '[factors]\nbatch_size = 32\nprecision = "bf16"\n')
    assert plan.factors.batch_size == [32]
    assert plan.factors.precision == ["bf16"]


def test_models_get_their_canonical_names():
    assert plan_of('name = "a"\nmodels = ["resnet18", "lenet"]').models == ["ResNet18", "LeNet"]


def test_another_length_replaces_the_default():
    plan = plan_of(MINIMAL + "[train]\nseconds = 5\n[infer]\nsteps = 7\n")
    assert (plan.train.epochs, plan.train.seconds) == (None, 5.0)
    assert (plan.infer.passes, plan.infer.steps) == (None, 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            MINIMAL + "[train]\nlearning_rat = 1\n",
            "train.learning_rat: unknown key; did you mean learning_rate?",
        ),
        (MINIMAL + "repeat = 2\n", "repeat: unknown key; did you mean repeats?"),
        (MINIMAL + "[trian]\nepochs = 1\n", "trian: unknown key; did you mean train?"),
        (
            MINIMAL + "[train]\nbatch_size = 1\n",
            "train.batch_size: unknown key; it belongs in [factors]",
        ),
        (
            MINIMAL + "[train]\nrepeats = 1\n",
            "train.repeats: unknown key; it belongs in the top of the file",
        ),
        ('name = "a"\nmodels = ["ResNet81"]\n', "models[0]: no model 'ResNet81'"),
        ('models = ["LeNet"]\n', "name: required, but missing"),
        ('name = "a"\n', "models: required, but missing"),
        ('name = "a"\nmodels = []\n', "models: must not be empty"),
        (
            'name = "a"\nmodels = "LeNet"\n',
            "models: 'LeNet' is not valid: input should be a valid list",
        ),
        ('name = "a"\nmodels = ["LeNet", "lenet"]\n', "models: 'LeNet' is given twice"),
        ('name = "a"\nmodels = ["paper", "LeNet"]\n', "models: 'LeNet' is given twice"),
        ('name = "a"\nmodels = [3]\n', "models[0]: 3 is not valid: input should be a valid string"),
        ('name = "a b"\nmodels = ["LeNet"]\n', "name: 'a b' is not valid"),
        ('name = "../a"\nmodels = ["LeNet"]\n', "name: '../a' is not valid"),
        (MINIMAL + 'repeats = "2"\n', "repeats: '2' is not valid: input should be a valid integer"),
        (MINIMAL + "repeats = 0\n", "repeats: 0 is not valid: input should be greater than 0"),
        (MINIMAL + "repeats = 1.5\n", "repeats: 1.5 is not valid"),
        (MINIMAL + "repeats = true\n", "repeats: True is not valid"),
        (MINIMAL + "seed = -1\n", "seed: -1 is not valid"),
        (MINIMAL + "idle_s = inf\n", "idle_s: inf is not valid"),
        (MINIMAL + "idle_s = nan\n", "idle_s: nan is not valid"),
        (MINIMAL + "idle_s = -1\n", "idle_s: -1 is not valid"),
        (MINIMAL + 'phases = ["infer", "train"]\n', "phases: a model is trained before inference"),
        (MINIMAL + 'phases = ["tarin"]\n', "phases[0]: unknown value 'tarin'; did you mean train?"),
        (MINIMAL + "phases = []\n", "phases: must not be empty"),
        (MINIMAL + "data = 3\n", "data: must be a table, is 3"),
        (
            MINIMAL + '[data]\nname = "digit"\n',
            "data.name: unknown value 'digit'; did you mean digits?",
        ),
        (MINIMAL + "[data]\nname = 3\n", "data.name: unknown value 3; choose from digits"),
        (MINIMAL + "[factors]\nbatch_size = [128, 0]\n", "factors.batch_size[1]: 0 is not valid"),
        (MINIMAL + "[factors]\nbatch_size = []\n", "factors.batch_size: must not be empty"),
        (MINIMAL + "[factors]\nbatch_size = [8, 8]\n", "factors.batch_size: 8 is given twice"),
        (
            MINIMAL + '[factors]\nprecision = "fp23"\n',
            "factors.precision[0]: unknown value 'fp23'; did you mean fp32?",
        ),
        (MINIMAL + '[factors]\ndevice = "gpu"\n', "factors.device[0]: 'gpu' is not valid"),
        (MINIMAL + "[factors]\ncompile = 1\n", "factors.compile[0]: 1 is not valid"),
        (
            MINIMAL + "[train]\nepochs = 1\nsteps = 2\n",
            "train: epochs and steps are both given; keep one",
        ),
        (
            MINIMAL + "[infer]\npasses = 1\nsteps = 2\n",
            "infer: passes and steps are both given; keep one",
        ),
        (MINIMAL + "[train]\nepochs = 0\n", "train.epochs: 0 is not valid"),
        (MINIMAL + "[train]\nmomentum = 1.0\n", "train.momentum: 1.0 is not valid"),
        (MINIMAL + "[train]\nlearning_rate = 0\n", "train.learning_rate: 0 is not valid"),
        (MINIMAL + 'sensors = ["cpu", "cpu"]\n', "sensors: 'cpu' is given twice"),
        (MINIMAL + "repeats = 0\nseed = -1\n", "(and 1 more)"),
    ],
)
def test_an_error_is_explained_in_one_line(tmp_path, text, message):
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(PlanError) as caught:
        load_plan(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert message in text
    assert "\n" not in text


def test_malformed_toml_gives_line_and_column(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text('name = "a"\nmodels = [\n"LeNet"\nrepeats = 2\n')
    with pytest.raises(PlanError, match=r"plan\.toml: not TOML: .*line 4, column 1"):
        load_plan(path)


def test_an_unknown_plan_names_the_presets():
    with pytest.raises(
        PlanError, match="no plan 'quik': neither a file nor a preset; did you mean quick"
    ):
        load_plan("quik")


def test_unreadable_files_are_plan_errors(tmp_path):
    with pytest.raises(PlanError, match="cannot be read"):
        load_plan(tmp_path)
    binary = tmp_path / "b.toml"
    binary.write_bytes(b"name = \xff")
    with pytest.raises(PlanError, match="not UTF-8 at byte 7"):
        load_plan(binary)


def test_a_file_with_the_name_of_a_preset_is_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("quick").write_text(MINIMAL)
    assert load_plan("quick").name == "a"


def test_presets_are_what_they_say():
    assert preset_names() == [
        "batch-size", "language", "language-gpu", "paper", "paper-profile", "quick",
    ]  # fmt: skip
    plans = {name: load_plan(name) for name in preset_names()}
    assert all(plan.name == name for name, plan in plans.items())
    quick = plans["quick"]
    assert len(quick.models) >= 4
    assert quick.repeats == 3
    assert quick.data.name == "digits"
    # Fixed work, which a slow machine cuts short.
    assert quick.train.epochs
    assert quick.infer.passes
    longest_s = quick.cells * (quick.train.seconds + quick.infer.seconds)
    assert longest_s < 10 * 60
    assert quick.idle_s > 0
    paper = plans["paper"]
    assert (len(paper.models), paper.data.name, paper.train.epochs) == (16, "cifar10", 100)
    assert len(plans["paper-profile"].models) == 16
    assert plans["batch-size"].factors.batch_size == [2**n for n in range(3, 11)]


@pytest.mark.parametrize("name", preset_names())
def test_presets_survive_being_written_out(name):
    plan = load_plan(name)
    assert parse(tomllib.loads(plan.to_toml()), name) == plan


PLANS = st.fixed_dictionaries(
    {"name": st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True)},
    optional={
        "models": st.lists(st.sampled_from(zoo_names()), min_size=1, max_size=4, unique=True),
        "repeats": st.integers(1, 9),
        "seed": st.integers(0, 2**32 - 1),
        "idle_s": st.floats(0, 3600),
        "sensors": st.lists(st.text(st.characters(exclude_categories=["Cs"])), unique=True),
        "data": st.fixed_dictionaries({"root": st.text(st.characters(exclude_categories=["Cs"]))}),
        "train": st.sampled_from(["epochs", "steps"]).flatmap(
            lambda length: st.fixed_dictionaries(
                {length: st.integers(1, 100), "learning_rate": st.floats(1e-9, 10)}
            )
        ),
        "factors": st.fixed_dictionaries(
            {"batch_size": st.lists(st.integers(1, 4096), min_size=1, max_size=4, unique=True)}
        ),
    },
)


@given(PLANS)
def test_any_plan_survives_being_written_out(document):
    plan = parse({"models": ["LeNet"]} | document, "plan.toml")
    written = plan.to_toml()
    assert parse(tomllib.loads(written), "again") == plan
    assert set(tomllib.loads(written)) == set(Plan.model_fields)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("train.epochs=3", 3),
        ("train.seconds=2.5", 2.5),
        ("train.validate=false", False),
        ("name=other", "other"),
        ('models=["VGG16"]', ["VGG16"]),
        ("factors.batch_size=64", [64]),
    ],
)
def test_entries_can_be_set(entry, value):
    document = load_plan("quick", overrides=[entry]).model_dump()
    for part in entry.partition("=")[0].split("."):
        document = document[part]
    assert document == value


@pytest.mark.parametrize(
    ("entries", "lengths"),
    [
        (["train.seconds=2.5"], (None, None, 2.5)),
        (["train.steps=4"], (None, 4, None)),
        (["train.epochs=4", "train.seconds=9.0"], (4, None, 9.0)),
        (["train.seconds=9.0", "train.epochs=4"], (4, None, 9.0)),
    ],
)
def test_lengths_that_are_set_replace_all_those_of_the_file(entries, lengths):
    train = load_plan("quick", overrides=entries).train
    assert (train.epochs, train.steps, train.seconds) == lengths


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("train", "expected key=value"),
        ("=3", "expected key=value"),
        ("name.x=3", "name is not a table"),
        ("train.epoch=3", "did you mean epochs"),
    ],
)
def test_entries_that_cannot_be_set(entry, message):
    with pytest.raises(PlanError, match=message):
        load_plan("quick", overrides=[entry])
