"""An extension of griffe that turns the examples in docstrings into code blocks of the site."""

from __future__ import annotations

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)
_FLAG = re.compile(r"\s*# doctest: \+\w+$", re.MULTILINE)


class DoctestBlocks(griffe.Extension):
    """Put every paragraph that begins with `>>>` into a fenced block."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Fence the examples in the docstring of an object (griffe's manual, "Extensions")."""
        if obj.docstring is not None:
            text = _FLAG.sub("", obj.docstring.value)
            obj.docstring.value = _EXAMPLE.sub(lambda found: f"```pycon\n{found[0]}\n```", text)
