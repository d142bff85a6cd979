"""A study's program as work: its knobs, and what fails."""

import pytest
from energy_parts import energy_of

from joulelab.errors import JoulelabError, UserError
from joulelab.machine import describe
from joulelab.study.plan import Plan
from joulelab.study.worker import WorkerFailure
from joulelab.tune.study_work import StudyWork
from joulelab.tune.tuning import UnmeasurableError


def answer(samples=8):
    found = {
        "energy": energy_of(100.0, 2.0).to_json(),
        "durations_s": [0.2] * 10,
        "work": [samples] * 10,
    }
    return {"body": {"failure": None, "results": {"train": found}}}


def failure(reason):
    return {"body": {"failure": {"kind": "out_of_memory", "reason": reason}, "results": {}}}


class FakeWorker:
    """Gives prepared answers; raises those that are exceptions."""

    def __init__(self, *answers):
        self.answers, self.requests, self.started, self.stopped = list(answers), [], 0, 0

    def start(self, log):
        self.started += 1
        return self

    def ask(self, request, *, hang_s, on_event=None):
        if request["do"] == "prepare":
            data = {"train_count": 100, "test_count": 50}
            return {"machine": describe().to_json(), "data": data, "devices": {"auto": "cpu"}}
        self.requests.append(request)
        found = self.answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def stop(self):
        self.stopped += 1

    kill = stop


def work(tmp_path, worker, **changes):
    plan = {"name": "p", "models": ["LeNet"], "factors": {"batch_size": [8], "precision": "fp32"}}
    return StudyWork(Plan.model_validate(plan | changes), tmp_path, 1.0, worker.start)


def test_a_probe_is_of_steps_at_the_settings_and_else_at_the_plans_first_levels(tmp_path):
    worker = FakeWorker(answer(16))
    with work(tmp_path, worker) as one:
        found = one.measure({"batch_size": 16})
    (request,) = worker.requests
    assert request["factors"]["batch_size"] == 16
    assert request["factors"]["precision"] == "fp32"
    assert (request["window_s"], request["most_s"]) == (1.0, 12.0)
    assert (found.probe.duration_s, found.probe.energy_j) == (2.0 / 160, 100.0 / 160)


def test_settings_that_fail_are_unmeasurable_and_the_next_ones_get_a_new_worker(tmp_path):
    crash = WorkerFailure("the worker was killed by SIGKILL", kind="crash")
    worker = FakeWorker(failure("no memory"), answer(), crash, answer())
    with work(tmp_path, worker) as one:
        with pytest.raises(UnmeasurableError, match="no memory"):
            one.measure({"batch_size": 64})
        one.measure({"batch_size": 8})
        with pytest.raises(UnmeasurableError, match="killed by SIGKILL"):
            one.measure({"batch_size": 64})
        one.measure({"batch_size": 8})
    assert worker.started == 3


def test_a_probe_whose_recorder_died_is_made_again(tmp_path):
    lost = {"unrecorded": "the recorder died"}
    worker = FakeWorker(lost, answer(), lost, lost, lost)
    with work(tmp_path, worker) as one:
        one.measure({"batch_size": 8})
        with pytest.raises(JoulelabError, match="were not recorded: the recorder died"):
            one.measure({"batch_size": 8})


@pytest.mark.parametrize(
    ("factors", "given", "levels", "baseline"),
    [
        ({"batch_size": [8]}, {"batch_size": ()}, (4, 8, 16, 32), 8),
        ({"batch_size": [32]}, {"batch_size": ()}, (16, 32, 64), 32),  # 128 > 100 images
        ({"batch_size": [8, 64]}, {"batch_size": ()}, (8, 64), 8),
        ({"batch_size": [64, 8]}, {"batch_size": ()}, (8, 64), 64),
        ({"batch_size": [8]}, {"batch_size": (16, 32)}, (8, 16, 32), 8),
        ({"precision": "fp32"}, {"precision": ()}, ("fp32", "bf16"), "fp32"),
        ({"compile": False}, {"compile": ()}, (False, True), False),
    ],
)
def test_levels_are_given_or_the_plans_or_around_the_baseline(
    tmp_path, factors, given, levels, baseline
):
    with work(tmp_path, FakeWorker(), factors=factors) as one:
        (knob,) = one.knobs(given)
    assert (knob.levels, knob.baseline) == (levels, baseline)


def test_levels_that_a_plan_cannot_have_are_refused(tmp_path):
    with work(tmp_path, FakeWorker()) as one:
        with pytest.raises(UserError, match="unknown value 'fp8'; choose from"):
            one.knobs({"precision": ("fp8",)})
        with pytest.raises(UserError, match="no knob 'lr'"):
            one.knobs({"lr": (1, 2)})


def test_a_plan_of_several_models_is_refused(tmp_path):
    with pytest.raises(UserError, match="the plan has 2 models"):
        work(tmp_path, FakeWorker(), models=["LeNet", "MobileNet"])


def test_a_note_states_that_a_batch_size_changes_what_is_learned(tmp_path):
    with work(tmp_path, FakeWorker()) as one:
        one.knobs({"memory_format": ()})
        assert one.notes == ()
        one.knobs({"batch_size": ()})
        assert "changes what the model learns" in one.notes[0]


def test_a_plan_of_language_models_has_no_knob_of_images(tmp_path):
    worker = FakeWorker()
    plan = {"models": ["lm:tiny"], "phases": ["prefill"]}
    with work(tmp_path, worker, **plan) as tuned:
        with pytest.raises(UserError, match="the plan has no knob 'memory_format'"):
            tuned.knobs({"memory_format": ()})
        (batch,) = tuned.knobs({"batch_size": ()})
    assert batch.levels == (4, 8, 16, 32)
