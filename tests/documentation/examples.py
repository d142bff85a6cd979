"""Find the examples of a page that are not doctests: blocks of shell, Python and TOML."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
KINDS = ("sh", "console", "python", "toml")
_SAVE_AS = re.compile(r"Save this as `(?P<name>[^`]+)`[^`]*:\n\n$")
_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+?) -->\n\n?)?"
    r"^(?P<indent> *)```(?P<kind>[a-z]+)\n(?P<text>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Example:
    """A code block of a page.

    Attributes:
        line: First line in the page.
        kind: One of :data:`KINDS`.
        text: Its content, without prompts and output.
        reason: Why it is not run; empty if it is.
        save_as: File name under which the page asks the reader to save it; may be empty.
    """

    line: int
    kind: str
    text: str
    reason: str
    save_as: str = ""


def examples(page):
    """Return the examples of a page, in order."""
    source = page.read_text(encoding="utf-8")
    return [
        Example(
            line=source.count("\n", 0, match.start("text")) + 1,
            kind=match["kind"],
            text=_commands(match["text"]) if match["kind"] == "console" else match["text"],
            reason=match["reason"] or "",
            save_as=_saved_name(source[: match.start()]),
        )
        for match in _BLOCK.finditer(source)
        if match["kind"] in KINDS
    ]


def _saved_name(before):
    match = _SAVE_AS.search(before)
    return match["name"] if match else ""


def _commands(text):
    """Return the commands: lines after ``$`` and their continuations."""
    typed = []
    goes_on = False
    for line in text.splitlines():
        if line.startswith("$ "):
            typed.append(line[2:])
        elif goes_on:
            typed.append(line)
        else:
            continue
        goes_on = typed[-1].endswith("\\") or _is_open("\n".join(typed))
    return "\n".join(typed) + "\n"


def _is_open(text):
    """Report whether a double quote is open."""
    return text.count('"') % 2 == 1
