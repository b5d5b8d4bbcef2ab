"""A griffe extension for the documentation site: doctest examples in docstrings become code blocks."""

from __future__ import annotations

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)
_FLAG = re.compile(r"\s*# doctest: \+\w+$", re.MULTILINE)


class DoctestBlocks(griffe.Extension):
    """Puts every paragraph that begins with `>>>` between code fences."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of an object; griffe calls this for each (its manual, "Extensions")."""
        if obj.docstring is not None:
            text = _FLAG.sub("", obj.docstring.value)
            obj.docstring.value = _EXAMPLE.sub(lambda found: f"```pycon\n{found[0]}\n```", text)
