"""Real torchrun with gloo on the CPU, and a simulated machine with two GPUs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from told import MACHINE, WITHOUT

import joulelab
from joulelab.energy.estimator import WindowUnion, energy_of_union, merge_ranges
from joulelab.runs.hosts import gather

COMPONENTS = {"gpu:0", "gpu:1", "cpu:0"}


def torchrun(ranks, arguments, *options, **environment):
    here = Path(__file__).parent
    path = os.pathsep.join(filter(None, (str(here), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={ranks}", *options, str(here / "training.py"), *arguments]
    clean = {name: value for name, value in os.environ.items() if name not in WITHOUT}
    done = subprocess.run(
        command,
        env={**clean, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(path.read_text()) for path in sorted(Path(arguments[1]).glob("*.json"))]


def truth(windows_ns):
    return {
        component: sum(MACHINE.energy_j(a * 1e-9, b * 1e-9, component) for a, b in windows_ns)
        for component in COMPONENTS
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return {
        "JOULELAB_HOME": str(tmp_path_factory.mktemp("home")),
        "XDG_RUNTIME_DIR": str(tmp_path_factory.mktemp("runtime")),
    }


@pytest.fixture(scope="module")
def killed_and_restarted(tmp_path_factory, home):
    """Four ranks of DDP; the one that started the recorder is killed, and torchrun restarts all."""
    out, directory = tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("job")
    # With a store shared by attempts, gloo would look for the first one's processes.
    settings = {**home, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    ranks = torchrun(4, ["ddp", str(out), str(directory)], "--max-restarts=1", **settings)
    return ranks, gather(directory)


def test_four_ranks_share_one_recorder(killed_and_restarted):
    ranks, _ = killed_and_restarted
    assert len(ranks) == 4
    assert len({rank["recorder"] for rank in ranks}) == 1
    assert all(rank["joined"] and not rank["failure"] for rank in ranks)
    for rank in ranks:
        assert rank["gross_j"] == pytest.approx(truth(rank["windows_ns"]), rel=0.02)


def test_the_jobs_energy_is_the_waveforms_once(killed_and_restarted):
    ranks, job = killed_and_restarted
    host = os.uname().nodename
    assert list(job.hosts) == [host]
    assert [one.directory.name for one in job.recordings] == ["0", "1"]
    last = job.recordings[1]
    windows = [(span.start_ns, span.stop_ns) for span in last.spans if span.name == "epoch"]
    assert len(windows) == 8
    energy = energy_of_union(last.estimator, WindowUnion.of(last.windows("epoch")))
    found = {name: part.gross_j for name, part in energy.components.items()}
    assert found == pytest.approx(truth(merge_ranges(windows).tolist()), rel=0.02)
    four_times = sum(sum(rank["gross_j"].values()) for rank in ranks)
    assert energy.gross_j < four_times / 3


def test_a_rank_that_was_killed_leaves_the_first_attempts_account_whole(killed_and_restarted):
    _, job = killed_and_restarted
    first = job.recordings[0]
    assert sorted(launch.rank for launch in first.launches) == [0, 1, 2, 3]
    windows = first.windows("epoch", index=0)
    assert len(windows) == 4
    energy = energy_of_union(first.estimator, WindowUnion.of(windows))
    union = merge_ranges([(window.start_ns, window.stop_ns) for window in windows])
    found = {name: part.gross_j for name, part in energy.components.items()}
    assert found == pytest.approx(truth(union.tolist()), rel=0.02)
    assert job.missing == ()
    both = job.energy("epoch", index=0)
    assert set(both.components) == {f"{name}@{os.uname().nodename}" for name in COMPONENTS}
    assert both.duration_s > energy.duration_s


def test_ranks_of_fsdp_join_the_recorder_that_is_named_to_them(tmp_path, home, monkeypatch):
    out, directory = tmp_path / "out", tmp_path / "recording"
    out.mkdir()
    for name in WITHOUT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", home["XDG_RUNTIME_DIR"])
    with joulelab.Meter(sensors=MACHINE, directory=directory) as meter:
        with meter.span("torchrun") as span:
            ranks = torchrun(2, ["fsdp", str(out)], JOULELAB_RECORDING=str(directory), **home)
        assert {rank["recorder"] for rank in ranks} == {meter.recorder_pid}
        assert span.energy.gross_j > max(sum(rank["gross_j"].values()) for rank in ranks)
        assert not meter.joined
    for rank in ranks:
        assert rank["joined"]
        assert rank["gross_j"] == pytest.approx(truth(rank["windows_ns"]), rel=0.02)
        assert rank["directory"] == str(directory)
    (recording,) = gather(directory).recordings
    assert [span.name for span in recording.spans].count("epoch") == 4
