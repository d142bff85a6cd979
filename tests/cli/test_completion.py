"""Completion as a real bash does it, and what the other shells are given."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from measured_runs import joulelab

PATH = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))


def completed(*words):
    """What bash offers for the last of these words."""
    line = " ".join(f"'{word}'" for word in words)
    script = f"""
        eval "$(joulelab completion bash)"
        COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}
        COMP_LINE="${{COMP_WORDS[*]}}"; COMP_POINT=${{#COMP_LINE}}
        if [[ $COMP_LINE == *:* ]]; then COMP_WORDS=(not used); fi
        _joulelab_whole_words joulelab
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PATH": PATH},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
def test_bash_completes_commands_options_and_choices():
    assert completed("joulelab", "compl") == ["completion"]
    assert completed("joulelab", "run", "--pro") == ["--project"]
    assert completed("joulelab", "run", "--phase", "tr") == ["train"]


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
def test_bash_completes_presets_models_profiles_and_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path))
    (tmp_path / "runs" / "20260101T000000Z-train-0001").mkdir(parents=True)
    assert completed("joulelab", "study", "pap") == ["paper", "paper-profile"]
    assert completed("joulelab", "rank", "ResNe") == ["ResNet18", "ResNeXt29_2x64d"]
    assert completed("joulelab", "predict", "--profile", "h1") == ["h100", "h100-vllm"]
    assert completed("joulelab", "compare", "prev") == ["previous"]
    for words in (
        ("compare", "latest"),
        ("show",),
        ("report",),
        ("runs", "tag"),
        ("forecast",),
    ):
        assert completed("joulelab", *words, "2026") == ["20260101T000000Z-train-0001"]


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
def test_bash_completes_the_levels_of_a_study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "plan.toml").write_text(
        'name = "s"\nmodels = ["LeNet", "VGG16"]\nphases = ["train"]\nrepeats = 1\n'
        '[factors]\nbatch_size = [8, 16]\nprecision = ["fp32", "bf16"]\noptimizer = ["sgd"]\n'
    )
    # Bash itself puts what stands before the last colon or equals sign in front of these.
    levels = ["model=LeNet", "model=VGG16", "batch_size=8", "batch_size=16"]
    assert completed("joulelab", "compare", "s:") == [*levels, "precision=fp32", "precision=bf16"]
    assert completed("joulelab", "compare", "s:precision=b") == ["bf16"]
    assert completed("joulelab", "compare", "s:LeNet", "s:LeNet,pre") == [
        "LeNet,precision=fp32", "LeNet,precision=bf16",
    ]  # fmt: skip
    assert completed("joulelab", "compare", "s:model=LeNet", "prev") == ["previous"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_installation_hint_for_every_shell(shell):
    done = joulelab("completion", shell)
    assert done.returncode == 0, done.stderr
    assert f"joulelab completion {shell}" in done.stdout
    assert "_JOULELAB_COMPLETE" in done.stdout
