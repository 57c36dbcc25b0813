"""What the documents tell a reader to type is what the command understands, and the files that they name exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from RVQCLib.cli import _parser

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "Docs").glob("*.md"))]


def commands(document: Path) -> Iterator[str]:
    """Lines of code that begin with a command of ours; a backslash at the end goes on in the next line."""
    fenced = False
    for line in document.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        fenced ^= line.startswith("```")
        if (fenced or line.startswith("    ")) and re.match(r"\s*(rvqc|python Testing/)", line):
            yield line.strip()


TYPED = [(document, command) for document in DOCUMENTS for command in commands(document)]


def test_there_is_something_to_type() -> None:
    assert len([1 for document, _ in TYPED if document.name == "README.md"]) > 10
    assert len([1 for document, _ in TYPED if document.name == "evidence.md"]) > 10


@pytest.mark.parametrize(("document", "command"), TYPED, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_to_be_typed_is_understood(document: Path, command: str) -> None:
    words = shlex.split(command, comments=True)
    if words[0] == "rvqc":
        _parser().parse_args(words[1:])
    else:
        script = REPOSITORY / words[1]
        text = script.read_text(encoding="utf-8") + (REPOSITORY / "Testing" / "trials.py").read_text(encoding="utf-8")
        assert [word for word in words[2:] if word.startswith("--") and f'"{word}"' not in text] == []


def test_what_slicer_shows_of_the_extension_is_shown_whole() -> None:
    """CMake takes a text apart at a semicolon, and what comes after it would be lost."""
    said = re.findall(r"set\(EXTENSION_\w+ (.*)\)\n", (REPOSITORY / "CMakeLists.txt").read_text(encoding="utf-8"))
    assert len(said) == 10 and [text for text in said if ";" in text] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if "://" not in target:
            file, _, heading = target.partition("#")
            other = document.parent / file if file else document
            assert other.exists(), target
            assert not heading or heading in headings(other), target


def headings(document: Path) -> set[str]:
    """The anchors of a document's headings."""
    lines = (line for line in document.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    return {re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in lines}
