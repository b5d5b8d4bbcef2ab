"""The name that a publication gets from the slot, where SOURCE_PUBLICATION_NAME is not set."""

from __future__ import annotations

import hashlib

_SUFFIX = "_pub"
#: PostgreSQL's NAMEDATALEN - 1. Names of slots are ASCII, a byte for each character.
_LONGEST = 63


def default_publication(slot: str) -> str:
    """Return the name of the publication of a slot: two slots must not share one by accident.

    A name that PostgreSQL would cut off ends with a digest of the slot, because two long names may begin alike.

    >>> default_publication("dbmazz_slot"), default_publication("shop")
    ('dbmazz_pub', 'shop_pub')
    """
    name = slot.removesuffix("_slot") + _SUFFIX
    if len(name) <= _LONGEST:
        return name
    suffix = f"_{hashlib.sha256(slot.encode()).hexdigest()[:8]}{_SUFFIX}"
    return slot[: _LONGEST - len(suffix)] + suffix
