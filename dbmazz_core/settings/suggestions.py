"""The end of an error for a name that does not exist: similar names that do."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence


def did_you_mean(names: Sequence[str]) -> str:
    """Return "; did you mean ...?" with the names; an empty text if there are none.

    >>> did_you_mean(["public.orders", "sales.orders"]), did_you_mean([])
    ('; did you mean public.orders or sales.orders?', '')
    """
    return f"; did you mean {' or '.join(names)}?" if names else ""


def suggestion(wanted: str, known: Collection[str]) -> str:
    """Return "; did you mean ...?" with up to three names that are most similar; an empty text if none is.

    >>> suggestion("public.oders", ["public.orders", "sales.invoices"])
    '; did you mean public.orders?'
    """
    return did_you_mean(difflib.get_close_matches(wanted, known, n=3, cutoff=0.5))
