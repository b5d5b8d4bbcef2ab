"""Code blocks of the documentation: fenced, with a language, and perhaps marked as not run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"```(\w*)")
_MARK = re.compile(r"<!-- not run: (\S.*) -->")
_INDENTED = re.compile(r"(?: {4}|\t)\s*\S")


@dataclass(frozen=True, slots=True)
class Block:
    """A code block of a page.

    Attributes:
        page: Path of the page, relative to the root of the repository.
        line: Line of the opening fence, from 1.
        language: Language after the opening fence; empty if the fence has none.
        text: The code.
        not_run: Reason in the comment `<!-- not run: ... -->` before the block; None without a comment.
    """

    page: str
    line: int
    language: str
    text: str
    not_run: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def read_blocks(page: str) -> list[Block]:
    """Return the code blocks of a page of the repository, in order."""
    return list(find_blocks(page, (ROOT / page).read_text()))


def find_blocks(page: str, text: str) -> Iterator[Block]:
    """Yield the code blocks of a Markdown text.

    Raises:
        ValueError: If a code block is indented instead of fenced, or a fence is not closed.
    """
    lines = iter(enumerate(text.splitlines(), 1))
    mark: str | None = None
    for number, line in lines:
        if _INDENTED.match(line):
            raise ValueError(f"{page}:{number}: an indented code block; use a fence with a language")
        if found := _FENCE.fullmatch(line):
            code = []
            for _, inner in lines:
                if inner == "```":
                    break
                code.append(inner)
            else:
                raise ValueError(f"{page}:{number}: the fence is not closed")
            yield Block(page, number, found[1], "".join(f"{inner}\n" for inner in code), mark)
        if line.strip():
            comment = _MARK.fullmatch(line)
            mark = comment[1] if comment else None
