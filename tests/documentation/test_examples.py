"""Every example of the README and the documentation runs as it stands, or says why it does not.

Python sessions run as doctests; these tests run commands, programs and plans. None of them may use
the network.
"""

import shlex
import shutil
import sys
import tomllib

import examples
import pytest
from desk import PREPARE, run

PAGES = [page for page in examples.PAGES if examples.examples(page)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_run(page, desk, request):
    for prepare in PREPARE.get(page.stem, ()):
        prepare(desk, request)
    for example in examples.examples(page):
        where = f"{page.name}:{example.line}"
        if example.save_as:
            (desk / example.save_as).write_text(example.text)
        if example.reason:
            continue
        if example.kind == "toml":
            tomllib.loads(example.text)
            continue
        script = example.text
        if example.kind == "python":
            script = f"{shlex.quote(sys.executable)} -c {shlex.quote(script)}"
        result = run(script, desk)
        assert result.returncode == 0, f"{where}: {example.text}\n{result.stderr}"
        assert "Traceback" not in result.stderr, where


def test_there_are_examples():
    assert len(PAGES) > 10
    assert shutil.which("bash")


def test_use_of_the_network_is_detected(tmp_path):
    script = "import socket; socket.create_connection(('192.0.2.1', 80), 1)"
    with pytest.raises(AssertionError, match=r"192\.0\.2\.1"):
        run(f"{shlex.quote(sys.executable)} -c {shlex.quote(script)}", tmp_path)
