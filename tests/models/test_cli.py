"""``joulelab models``, as a user runs it."""

import json
import subprocess
import sys

import pytest


def test_json_has_the_documented_keys(run):
    code, out, err = run("models", "lenet", "LeNet", "PNASNetA", "--json")
    assert (code, err) == (0, "")
    first, second = json.loads(out)
    assert first == {
        "model": "LeNet",
        "parameters": 62006,
        "trainable_parameters": 62006,
        "parameter_bytes": 248024,
        "buffer_bytes": 0,
        "size_bytes": 248024,
        "macs": 651720,
        "macs_per_parameter": 651720 / 62006,
    }
    assert (second["model"], second["macs"]) == ("PNASNetA", 28037856)


def test_without_torch_the_error_is_one_line_with_a_hint():
    code = "import sys; sys.modules['torch'] = None; from joulelab.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "models"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "pip install 'joulelab[study]'" in done.stderr


def test_the_table_names_all_16_and_the_other_forms(run):
    code, out, _ = run("models")
    assert code == 0
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.split()}
    assert rows["ResNeXt29_2x64d"] == ["9,128,778", "9,128,778", "36.6", "1,409", "154"]
    assert rows["LeNet"] == ["62,006", "62,006", "0.248", "0.652", "10.5"]
    assert sum(len(cells) == 5 and cells[0][0].isdigit() for cells in rows.values()) == 16
    assert "torchvision:NAME, timm:NAME, hf:CONFIG, package.module:factory" in out


def test_input_and_classes_reach_the_model(run):
    _, out, _ = run("models", "LeNet", "--input", "1x32x32", "--classes", "100", "--json")
    (row,) = json.loads(out)
    assert row["parameters"] == 62006 - 2 * 6 * 25 + 90 * 85


def test_a_model_without_parameters_has_no_ratio(run):
    _, out, _ = run("models", "torch.nn:Identity", "--json")
    assert json.loads(out)[0]["macs_per_parameter"] is None
    code, out, _ = run("models", "torch.nn:Identity")
    assert code == 0
    assert "nan" not in out.lower()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ResNet81"], "did you mean ResNet18?"),
        (["VGG16", "LeNet", "--input", "3x64x64"], "LeNet does not accept 3x64x64: "),
        (["VGG16", "--input", "3x8x8"], "VGG16 does not accept 3x8x8"),
        (["LeNet", "--input", "32x32"], "LeNet does not accept 32x32"),
        (["--input", "0x32x32"], "'0x32x32' is not the shape of a sample"),
        (["--classes", "0"], "--classes"),
        (["--json", "no.such.module:Net"], "No module named"),
    ],
)
def test_invalid_requests_exit_with_2_and_one_line(run, arguments, message):
    code, out, err = run("models", *arguments)
    assert code == 2
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
