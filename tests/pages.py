"""README and the pages in examples, and the blocks of command lines in them."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
README = ROOT / "README.md"
PAGES = (README, *sorted(EXAMPLES.glob("*.md")))
NOT_RUN = "<!-- not run by the tests: "
_BLOCK = re.compile(r"^(?P<before>[^\n]*)\n```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and whether the tests run it."""

    language: str
    text: str
    runs: bool


def blocks(page, language="sh"):
    """The blocks of a page in one language."""
    found = [Block(match["language"], match["text"], not match["before"].startswith(NOT_RUN))
             for match in _BLOCK.finditer(page.read_text(encoding="utf-8"))]
    return [block for block in found if block.language == language]


def prose(page):
    """A page without its blocks."""
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))
