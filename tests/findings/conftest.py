from pathlib import Path

import pytest

from joulelab.cli.app import main
from joulelab.findings.data import Data
from joulelab.runs.studies import read_studies

RECORDED = Path(__file__).parents[1] / "data" / "h100"


@pytest.fixture(scope="session")
def h100(tmp_path_factory):
    """The recording of sixteen models on an H100, as a study."""
    directory = tmp_path_factory.mktemp("h100") / "h100"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JOULELAB_HOME", str(directory.with_name("home")))
        with pytest.raises(SystemExit) as stop:
            main([
                "import-study", "--out", str(directory),
                "--spans", str(RECORDED / "zoo_spans.csv"),
                "--power", str(RECORDED / "zoo_power_samples.csv.gz"),
                "--telemetry", str(RECORDED / "zoo_telemetry.csv.gz"),
                "--machine", str(RECORDED / "machine.json"),
            ])  # fmt: skip
    assert stop.value.code == 0
    return Data.of(read_studies([directory]))
