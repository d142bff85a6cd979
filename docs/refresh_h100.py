"""Update the figures and quoted findings of the H100: ``python docs/refresh_h100.py``."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).parent
DATA = DOCS.parent / "tests" / "data" / "h100"
PAGES = (DOCS / "explanation" / "h100.md", DOCS / "reference" / "findings.md")
QUOTED = re.compile(r"^% finding: (\S+)\n> ?(.*)$", re.MULTILINE)
SHOWN = re.compile(r"\]\(\.\./images/h100-(.+?\.svg)\)")

ARGUMENTS = (
    *("--spans", str(DATA / "zoo_spans.csv")),
    *("--power", str(DATA / "zoo_power_samples.csv.gz")),
    *("--telemetry", str(DATA / "zoo_telemetry.csv.gz")),
    *("--machine", str(DATA / "machine.json")),
)


def refresh(report: Path) -> None:
    """Copy figures and findings from a report of the recording into the pages."""
    found = json.loads((report / "findings.json").read_text(encoding="utf-8"))
    statements = {finding["id"]: finding["statement"] for finding in found}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        text = QUOTED.sub(lambda quote: f"% finding: {quote[1]}\n> {statements[quote[1]]}", text)
        page.write_text(text, encoding="utf-8")
        for name in SHOWN.findall(text):
            image = (report / "figures" / name).read_bytes()
            (DOCS / "images" / f"h100-{name}").write_bytes(image)


def main() -> None:
    """Import the recording as a study, report it and refresh the pages."""
    with tempfile.TemporaryDirectory() as directory:
        study = Path(directory) / "h100"
        for command in (["import-study", *ARGUMENTS, "--out", str(study)], ["report", str(study)]):
            subprocess.run([sys.executable, "-m", "joulelab", *command], check=True)
        refresh(study)


if __name__ == "__main__":
    main()
