"""Run examples one after another in one process, so that PyTorch is imported once.

Writes a JSON object to the file given first: the output of each example, or its traceback.
"""

import contextlib
import io
import json
import runpy
import sys
import traceback
from pathlib import Path


def run(path, *arguments):
    """Run an example as a script and return what it printed."""
    sys.argv = [str(path), *arguments]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            runpy.run_path(str(path), run_name="__main__")
        except BaseException:  # noqa: BLE001
            printed.write(traceback.format_exc())
    return printed.getvalue()


if __name__ == "__main__":
    results, examples = map(Path, sys.argv[1:])
    outputs = {}
    for example in sorted(examples.glob("*.py")):
        if example.stem.startswith("serve_"):  # It serves until it is stopped.
            continue
        arguments = ("runs",) if example.stem == "compare_settings" else ()
        outputs[example.stem] = run(example, *arguments)
    results.write_text(json.dumps(outputs))
