"""``joulelab models``, as a user runs it."""

import json
import subprocess
import sys

import pytest

from joulelab.cli.app import main


def joulelab(*arguments, before=""):
    code = f"{before}\nfrom joulelab.cli.app import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )


def test_json_has_the_promised_keys():
    done = joulelab("models", "lenet", "LeNet", "PNASNetA", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    first, second = json.loads(done.stdout)
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


def test_without_torch_the_mend_is_told_in_one_line():
    done = joulelab("models", before="import sys; sys.modules['torch'] = None")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "pip install 'joulelab[study]'" in done.stderr


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["models", *arguments])
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


def test_the_table_names_all_16_and_the_other_forms(capsys):
    code, out, _ = run(capsys)
    assert code == 0
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.split()}
    assert rows["ResNeXt29_2x64d"] == ["9,128,778", "9,128,778", "36.62", "1,409.49", "154.40"]
    assert rows["LeNet"] == ["62,006", "62,006", "0.25", "0.65", "10.51"]
    assert sum(len(cells) == 5 and cells[0][0].isdigit() for cells in rows.values()) == 16
    assert "torchvision:NAME, timm:NAME, hf:CONFIG, package.module:factory" in out


def test_input_and_classes_reach_the_model(capsys):
    _, out, _ = run(capsys, "LeNet", "--input", "1x32x32", "--classes", "100", "--json")
    (row,) = json.loads(out)
    assert row["parameters"] == 62006 - 2 * 6 * 25 + 90 * 85


def test_a_model_without_parameters_has_no_ratio(capsys):
    _, out, _ = run(capsys, "torch.nn:Identity", "--json")
    assert json.loads(out)[0]["macs_per_parameter"] is None
    code, out, _ = run(capsys, "torch.nn:Identity")
    assert code == 0
    assert "nan" not in out.lower()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ResNet81"], "did you mean ResNet18?"),
        (["VGG16", "LeNet", "--input", "3x64x64"], "LeNet does not take 3x64x64: "),
        (["VGG16", "--input", "3x8x8"], "VGG16 does not take 3x8x8"),
        (["--input", "32x32"], "'32x32' is not CHANNELSxHEIGHTxWIDTH, as 3x32x32"),
        (["--input", "0x32x32"], "is not CHANNELSxHEIGHTxWIDTH"),
        (["--input", "3x32x٣"], "is not CHANNELSxHEIGHTxWIDTH"),
        (["--classes", "0"], "--classes"),
        (["--json", "no.such.module:Net"], "No module named"),
    ],
)
def test_bad_requests_end_in_one_line_and_2(capsys, arguments, message):
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_help_shows_an_example(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert "\n    joulelab models ResNet18 torchvision:resnet18 --input 3x224x224" in out
