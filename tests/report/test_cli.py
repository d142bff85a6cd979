import json

import pytest


@pytest.fixture(scope="module")
def study(tmp_path_factory, synthetic):
    writer = synthetic.Writer(tmp_path_factory.mktemp("cli") / "study")
    writer.cell("LeNet", 0)
    writer.cell("VGG16", 0)
    return writer.directory


pytestmark = pytest.mark.usefixtures("fast")


def test_prints_what_it_wrote(study, printed):
    *found, tables, figures, page = printed("report", study).splitlines()
    assert [line for line in found if line.startswith("energy ")]
    assert page == f"Report:  {study / 'report.html'}"
    assert "results" in tables
    assert figures.endswith(f"in {study / 'figures'}")


def test_json_and_out(study, tmp_path, printed):
    paths = json.loads(printed("report", study, "--out", tmp_path / "new" / "my.html", "--json"))
    assert paths["page"] == str(tmp_path / "new" / "my.html")
    assert (tmp_path / "new" / "figures" / "energy-train.svg").exists()
    assert paths["tables"][1] == str(tmp_path / "new" / "results.csv")
    known = json.loads((tmp_path / "new" / "findings.json").read_text(encoding="utf-8"))
    assert set(paths["key_findings"]) <= {finding["id"] for finding in known}


def test_user_errors_are_one_line(study, tmp_path, refused):
    (tmp_path / "file").write_text("")
    cases = [
        ([tmp_path], "is neither a run nor a study"),
        ([tmp_path / "missing"], "no file, and no saved run of that name"),
        ([tmp_path / "file"], "file"),
        ([study, tmp_path], "is not a study"),
        ([study, "--out", tmp_path / "file" / "x.html"], "cannot write"),
        ([study, "--trace", "r9-none"], "no finished run 'r9-none'"),
        ([], "Missing argument"),
    ]
    for arguments, word in cases:
        assert word in refused("report", *arguments)
