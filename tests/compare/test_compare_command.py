"""``joulelab compare`` as a user runs it."""

import json
import subprocess
import sys
from functools import partial

import pytest


@pytest.fixture
def joulelab(run):
    """The command in this process: exit code, standard output, standard error."""
    return partial(run, "compare")


@pytest.fixture
def groups(tmp_path, write_runs):
    return (
        write_runs(tmp_path / "a", [300, 302, 298]),
        write_runs(tmp_path / "b", [340, 342, 338], started_unix_s=1.79e9 + 3600),
    )


def test_effect_as_text_and_as_json(groups, joulelab):
    done = subprocess.run(
        [sys.executable, "-m", "joulelab", "compare", *groups],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert f"baseline   {groups[0]} (train.py): 3 runs, " in done.stdout
    assert "gross energy: 11.4 % higher in the candidate (95 % CI +" in done.stdout
    assert "): significant\n" in done.stdout
    assert "Welch's t test on logarithms, 3 and 3 runs: p < 0.001" in done.stdout
    assert "not alternating with it: a drift would look like an effect" in done.stdout
    code, out, _ = joulelab(*groups, "--json", "--metric", "mean_power_w")
    found = json.loads(out)
    assert code == 0
    assert found["metric"] == "mean_power_w"
    assert found["effect"]["ratio"] == pytest.approx(390 / 350, rel=1e-4)
    assert found["effect"]["significant"] is True
    assert found["baseline"]["runs"] == ["run-0", "run-1", "run-2"]
    assert found["baseline"]["costs"]["carbon_g"] is None


@pytest.mark.parametrize(
    ("limit", "strict", "code", "above"),
    [
        ("5%", False, 1, True),
        ("0.05", False, 1, True),
        ("11.4%", False, 0, None),
        ("11.4%", True, 1, None),
        ("20%", False, 0, False),
        ("20%", True, 0, False),
    ],
)
def test_fail_above_exits_with_1_if_significant_and_strict_also_if_undecided(
    groups, joulelab, limit, strict, code, above
):
    found, out, _ = joulelab(*groups, "--json", "--fail-above", limit, *["--strict"] * strict)
    assert (found, json.loads(out)["above"]) == (code, above)


def test_one_run_each_is_undecided(tmp_path, write_run, joulelab):
    a, b = write_run(tmp_path / "a", 300.0), write_run(tmp_path / "b", 900.0)
    code, out, _ = joulelab(a, b, "--fail-above", "5%")
    assert code == 0
    assert "not tested, since one run each" in out
    assert "limit of +5 %: undecided whether the candidate is above it" in out
    other = write_run(tmp_path / "c", 300.0, command=("python", "other.py"))
    assert "\n  command: python train.py (baseline), python other.py" in joulelab(a, other)[1]
    assert joulelab(a, b, "--fail-above", "5%", "--strict")[0] == 1


def test_levels_of_a_study_work_with_every_output(tmp_path, synthetic, joulelab):
    writer = synthetic.Writer(tmp_path / "s", repeats=3)
    for block in range(3):
        for precision, factor in (("fp32", 1.0 + 0.01 * block), ("bf16", 1.5)):
            writer.cell("LeNet", block, stretch=factor, precision=precision)
    levels = [f"{tmp_path / 's'}:phase=train,precision={name}" for name in ("fp32", "bf16")]
    code, out, _ = joulelab(*levels, "--metric", "duration_s", "--fail-above", "20%")
    assert code == 1
    assert "baseline   " + levels[0] in out
    assert "paired t test over 3 blocks on logarithms, 3 and 3 runs" in out
    assert "precision: fp32 (baseline), bf16 (candidate)" in out
    found = json.loads(joulelab(*levels, "--metric", "duration_s", "--json")[1])
    assert found["effect"]["ratio"] == pytest.approx(1.5 / 1.01, rel=1e-3)
    assert found["candidate"]["runs"] == [f"r{block}-lenet-bf16 (train)" for block in range(3)]
    text = joulelab(*levels, "--markdown", "-")[1]
    assert "precision" in text
    code, out, err = joulelab(levels[0], f"{tmp_path / 's'}:precision=fp16")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.endswith("s has no precision 'fp16'; choose from fp32, bf16\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["previous", "latest"], "none has finished"),
        (["a", "nowhere"], "there is no 'nowhere'"),
        (["a", "b", "--metric", "gross"], "did you mean gross_j?"),
        (["a", "b", "--by", "model"], "there is no level 'model'"),
        (["a", "b", "--fail-above", "5"], "give 5% or 0.05"),
        (["a", "b", "--strict"], "--strict needs --fail-above"),
        (["a", "b", "--metric", "net_j"], "run joulelab idle before measuring"),
    ],
)
def test_errors_are_one_line(groups, joulelab, monkeypatch, arguments, message):
    monkeypatch.chdir(groups[0].parent)
    code, out, err = joulelab(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
