import subprocess
import sys

import pytest
import refresh_h100

from joulelab.report import files
from joulelab.report.page import write_all


@pytest.fixture(scope="session")
def h100(tmp_path_factory):
    """What was written for the study of docs/explanation/h100.md."""
    directory = tmp_path_factory.mktemp("h100") / "h100"
    arguments = ["import-study", *refresh_h100.ARGUMENTS, "--out", str(directory)]
    subprocess.run([sys.executable, "-m", "joulelab", *arguments], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "FORMATS", ("svg",))
        return write_all([directory])


@pytest.fixture(scope="session")
def quick(tmp_path_factory):
    """The page of a quick study that was run here, cut to a second a cell."""
    directory = tmp_path_factory.mktemp("quick")
    plan = directory / "plan.toml"
    plan.write_text(
        """
        name = "quick"
        models = ["LeNet", "MobileNet"]
        repeats = 1
        idle_s = 0.5
        [data]
        name = "digits"
        [factors]
        batch_size = [8]
        [train]
        seconds = 0.5
        [infer]
        seconds = 0.5
        """
    )
    study = directory / "study"
    arguments = ["study", str(plan), "--out", str(study)]
    subprocess.run([sys.executable, "-m", "joulelab", *arguments], check=True)
    return study / "report.html"
