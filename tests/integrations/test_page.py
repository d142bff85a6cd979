"""The examples of the page on frameworks, in one process: each imports something large."""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "training-frameworks.md").read_text(
    encoding="utf-8"
)
EXAMPLES = dict(
    re.findall(
        r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```$",
        PAGE,
        re.MULTILINE | re.DOTALL,
    )
)
PACKAGES = {
    "PyTorch, or any loop": "torch",
    "Lightning": "lightning",
    "Transformers": "transformers",
    "Keras": "keras",
    "Energy per token": "numpy",
}


def test_each_framework_has_its_example():
    # The last example tunes, which needs a GPU.
    assert list(EXAMPLES)[:-1] == list(PACKAGES)


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.filterwarnings("ignore")
def test_examples_run(name, tmp_path, monkeypatch):
    pytest.importorskip(PACKAGES[name])
    monkeypatch.chdir(tmp_path)
    exec(
        compile(EXAMPLES[name], f"docs/how-to/training-frameworks.md: {name}", "exec"),
        {"__name__": name},
    )
