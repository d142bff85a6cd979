import json
import os
import resource
import subprocess
import sys
from itertools import pairwise

import psutil
import pytest

from joulelab.doctor import load_pattern
from joulelab.doctor.load_pattern import Load, LoadPattern, usable_threads


def test_the_load_is_on_and_off_in_turn():
    pattern = LoadPattern.starting(10.0, 17.0)
    assert pattern.edges_s[0] == 10.0
    assert pattern.edges_s[-1] == pytest.approx(27.0)
    for position, (start_s, stop_s) in enumerate(pairwise(pattern.edges_s)):
        assert pattern.is_on((start_s + stop_s) / 2) is (position % 2 == 0)
    assert not pattern.is_on(9.9)
    assert not pattern.is_on(27.1)
    assert len(pattern.on) == len(pattern.off) == 4


def test_no_shift_lays_the_pattern_on_itself():
    times = [step / 20 for step in range(20 * 17)]
    pattern = LoadPattern.starting(0.0, 17.0)
    here = [pattern.is_on(t_s) for t_s in times]
    for shift in range(1, 60):
        shifted = [pattern.is_on(t_s - shift / 20) for t_s in times]
        assert here != shifted


def test_a_load_runs_for_the_pattern_and_ends():
    load = Load("cpu")
    try:
        assert load.reason == ""
        process = psutil.Process(load._process.pid)
        pattern = LoadPattern.starting(load_pattern.time.monotonic(), 0.5)
        load.follow(pattern)
        load._process.wait()
        assert load._process.returncode == 0
        assert load_pattern.time.monotonic() >= pattern.edges_s[-1]
        assert not process.is_running()
    finally:
        load.end()


def test_a_load_starts_from_a_process_with_many_open_files():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    copies = [os.dup(1)]
    try:
        while copies[-1] < 1100:
            copies.append(os.dup(1))
        load = Load("cpu")
        load.end()
        assert load.reason == ""
    finally:
        for copy in copies:
            os.close(copy)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_load_forks_without_the_threads_that_numpy_starts():
    code = "import sys, joulelab.doctor.load_pattern; sys.exit('numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


ORPHAN = """
import os, time
from joulelab.doctor import load_pattern

fork = os.fork

def fork_and_end():
    own = os.getpid()
    if fork():
        os._exit(0)
    while os.getppid() == own:
        time.sleep(0.001)
    return 0

os.fork = fork_and_end
load_pattern.usable_threads = lambda: 2
load_pattern.main("cpu")
"""


def test_a_load_whose_process_ends_as_it_forks_ends():
    pattern = LoadPattern.starting(load_pattern.time.monotonic(), 600.0)
    # It returns when no process has the pipe of its output any more.
    done = subprocess.run(
        [sys.executable, "-c", ORPHAN],
        input=json.dumps(pattern.edges_s) + "\n",
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "ready\n"


def test_a_load_that_is_ended_early_leaves_nothing_behind():
    load = Load("cpu")
    load.follow(LoadPattern.starting(load_pattern.time.monotonic(), 600.0))
    children = psutil.Process(load._process.pid).children()
    load.end()
    assert load._process.returncode is not None
    assert psutil.wait_procs(children)[1] == []


def test_a_load_that_does_not_start_says_so(monkeypatch):
    monkeypatch.setattr(load_pattern.sys, "executable", "/bin/false")
    load = Load("cpu")
    load.follow(LoadPattern.starting(0.0, 1.0))
    load.end()
    assert "does not start" in load.reason


def test_threads_follow_the_limit_of_the_control_group(monkeypatch):
    monkeypatch.setattr(load_pattern, "cpu_limit", lambda: 0.5)
    assert usable_threads() == 1
    monkeypatch.setattr(load_pattern, "cpu_limit", lambda: None)
    assert usable_threads() == len(psutil.Process().cpu_affinity())
