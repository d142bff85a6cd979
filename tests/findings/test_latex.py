import shutil
import subprocess

import pandas as pd
import pytest

from joulelab.findings.latex import (
    LONG,
    escaped,
    hardware_table,
    latex,
    model_table,
    result_table,
    write_paper_tables,
)
from joulelab.findings.tables import StudyTables


@pytest.fixture(scope="module")
def tables(tmp_path_factory, synthetic):
    root = tmp_path_factory.mktemp("printed")
    other = synthetic.other_machine(host="100%_server", cpu_cores=4)
    synthetic.write_study(root / "one", models=["LeNet", "VGG16"])
    synthetic.write_study(root / "two", models=["LeNet", "VGG16"], machine=other)
    return StudyTables.read([root / "one", root / "two"])


def test_hardware_has_a_column_per_machine(tables):
    table = hardware_table(tables.studies)
    assert list(table) == ["Component", "workstation", "100%_server"]
    rows = table.set_index("Component")
    assert "i9-11900KF" in rows.loc["CPU", "workstation"]
    assert "4 cores" in rows.loc["CPU", "100%_server"]
    assert "RTX 3090" in rows.loc["GPU", "workstation"]


def test_models_have_their_characteristics_once(tables):
    table = model_table(tables.summary).set_index("Model")
    assert table.index.tolist() == ["LeNet", "VGG16"]
    assert table.loc["VGG16", "Parameters (M)"] == "14.7"
    assert table.loc["VGG16", "Operators"] == ""


def test_results_have_intervals_and_what_varies(tables):
    table = result_table(tables.summary)
    assert len(table) == 8
    assert {"Host", "Study", "Model", "Phase", "Accuracy (%)"} <= set(table)
    first = table.iloc[0]
    assert (first["Model"], first["Phase"], first["Repeats"]) == ("LeNet", "training", "2")
    assert first["Mean power (W)"].startswith("350 (")


def test_files_are_whole_and_the_same_again(tables, tmp_path):
    paths = write_paper_tables(tables, tmp_path)
    assert sorted(path.name for path in paths) == [
        f"{name}.{ending}"
        for name in ("hardware", "models", "summary")
        for ending in ("csv", "parquet", "tex")
    ]
    before = {path: path.read_bytes() for path in paths}
    assert {path: path.read_bytes() for path in write_paper_tables(tables, tmp_path)} == before
    read = pd.read_parquet(tmp_path / "summary.parquet")
    assert read["gross_j"].tolist() == tables.summary["gross_j"].tolist()


def test_names_are_escaped():
    table = pd.DataFrame({"a_b": ["100 % & more", "\\input{/etc/passwd}", None]})
    text = latex(table, "50 %", "tab:x")
    assert r"a\_b" in text
    assert r"100 \% \& more" in text
    assert r"\input{" not in text
    assert escaped("−1 ± 2 µJ") == r"$-$1 $\pm$ 2 \textmu{}J"


def test_many_rows_go_over_pages():
    table = pd.DataFrame({"n": [str(i) for i in range(LONG + 1)]})
    assert r"\begin{longtable}" in latex(table, "Many", "tab:many")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_sets_them(tables, tmp_path):
    write_paper_tables(tables, tmp_path)
    names = "".join(rf"\input{{{name}.tex}}" for name in ("hardware", "models", "summary"))
    packages = r"\usepackage{booktabs,longtable}"
    (tmp_path / "all.tex").write_text(
        rf"\documentclass{{article}}{packages}\begin{{document}}{names}\end{{document}}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
