r"""The comment on a publication that dbmazz created: it remembers which destination each slot serves.

PostgreSQL keeps no comments on slots. A second destination that uses a slot moves it on, and the first one loses
changes, so the second one must be able to tell.

>>> serves = DestinationIdentity("5f0c", "/srv/shop.duckdb on host db1")
>>> comment = with_destination(CREATED_BY_DBMAZZ, "shop", serves)
>>> comment
'created by dbmazz\nslot shop serves 5f0c, /srv/shop.duckdb on host db1'
>>> destinations(comment) == {"shop": serves}
True
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from dbmazz_core.model.destination_identity import DestinationIdentity

#: First line of the comment.
CREATED_BY_DBMAZZ = "created by dbmazz"
# Names of slots have only lower case letters, digits and underscores.
_SLOT = re.compile(r"^slot (?P<slot>[a-z0-9_]+) serves (?P<id>\S+), (?P<location>.+)$", re.MULTILINE)


def is_created_by_dbmazz(comment: str | None) -> bool:
    """Return whether a publication with this comment was created by dbmazz."""
    return comment is not None and comment.split("\n", 1)[0] == CREATED_BY_DBMAZZ


def destinations(comment: str | None) -> Mapping[str, DestinationIdentity]:
    """Return the destinations by slot."""
    if comment is None or not is_created_by_dbmazz(comment):
        return {}
    return {m["slot"]: DestinationIdentity(m["id"], m["location"]) for m in _SLOT.finditer(comment)}


def with_destination(comment: str, slot: str, destination: DestinationIdentity) -> str:
    """Return the comment with another destination of a slot."""
    return "\n".join([without_slot(comment, slot), f"slot {slot} serves {destination.id}, {destination.location}"])


def without_slot(comment: str, slot: str) -> str:
    """Return the comment without the destination of a slot."""
    return "\n".join(line for line in comment.split("\n") if not ((m := _SLOT.match(line)) and m["slot"] == slot))
