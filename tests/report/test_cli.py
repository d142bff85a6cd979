import json

import pytest

from joulelab.cli.app import main


@pytest.fixture(scope="module")
def study(tmp_path_factory, synthetic):
    writer = synthetic.Writer(tmp_path_factory.mktemp("cli") / "study")
    writer.cell("LeNet", 0)
    writer.cell("VGG16", 0)
    return writer.directory


pytestmark = pytest.mark.usefixtures("fast")


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        main(["report", *map(str, arguments)])
    return stop.value.code


def test_prints_what_it_wrote(study, capsys):
    assert run(study) == 0
    *found, tables, figures, page = capsys.readouterr().out.splitlines()
    assert [line for line in found if line.startswith("energy ")]
    assert page == f"Report:  {study / 'report.html'}"
    assert "results" in tables
    assert figures.endswith(f"in {study / 'figures'}")


def test_json_and_out(study, tmp_path, capsys):
    assert run(study, "--out", tmp_path / "new" / "my.html", "--json") == 0
    paths = json.loads(capsys.readouterr().out)
    assert paths["page"] == str(tmp_path / "new" / "my.html")
    assert (tmp_path / "new" / "figures" / "energy-train.svg").exists()
    assert paths["tables"][1] == str(tmp_path / "new" / "results.csv")
    known = json.loads((tmp_path / "new" / "findings.json").read_text(encoding="utf-8"))
    assert set(paths["key_findings"]) <= {finding["id"] for finding in known}


def test_user_errors_are_one_line(study, tmp_path, capsys):
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
        assert run(*arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert len(captured.err.splitlines()) == 1
        assert word in captured.err
