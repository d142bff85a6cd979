"""Update what is shown of the H100: ``python docs/refresh_h100.py``.

These are figures, quoted findings and, next to the paper's claims, the values that are shipped.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from joulelab.findings import paper
from joulelab.findings.paper import Comparison, read_h100

DOCS = Path(__file__).parent
DATA = DOCS.parent / "tests" / "data" / "h100"
PAGES = (DOCS / "explanation" / "h100.md", DOCS / "reference" / "findings.md")
PAPER_PAGE = DOCS / "explanation" / "reproducing-the-paper.md"
PAPER_TABLE = re.compile(r"(?<=% claims of the paper\n\n).*(?=% end)", re.DOTALL)
PAPER_DATA = Path(paper.__file__).with_name(paper.H100_FILE)
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


def paper_table(rows: Sequence[Comparison]) -> str:
    """Return the claims as a table in Markdown."""
    lines = ["| claim | paper | ours (95 % CI) | agreement |", "|---|---|---|---|"]
    for row in rows:
        claim, agreement = f"{row.claim.text} ({row.claim.source})", f"**{row.agreement}**"
        cells = (claim, row.claim.paper, row.ours or "–", f"{agreement}: {row.why}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def refresh_paper(claims: Sequence[dict[str, object]]) -> None:
    """Ship the compared claims with the package, and show them on their page."""
    text = json.dumps(claims, ensure_ascii=False, indent=1)
    PAPER_DATA.write_text(f"{text}\n", encoding="utf-8")
    page = PAPER_PAGE.read_text(encoding="utf-8")
    table = paper_table(read_h100())
    PAPER_PAGE.write_text(PAPER_TABLE.sub(lambda _: f"{table}\n\n", page), encoding="utf-8")


def main() -> None:
    """Import the recording as a study, report it and refresh the pages."""
    with tempfile.TemporaryDirectory() as directory:
        study = Path(directory) / "h100"
        for command in (["import-study", *ARGUMENTS, "--out", str(study)], ["report", str(study)]):
            subprocess.run([sys.executable, "-m", "joulelab", *command], check=True)
        refresh(study)
        command = [sys.executable, "-m", "joulelab", "report", str(study), "--paper", "--json"]
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        refresh_paper(json.loads(found)["claims"])


if __name__ == "__main__":
    main()
