"""Masks: they replace the values of a column inside the source, before any other part of the program gets them.

- `hash` is HMAC-SHA-256 (RFC 2104) of PostgreSQL's text of the value under `MASK_KEY`, in lower-case hexadecimal. It is
  the result of pgcrypto's `encode(hmac(v::text, key, 'sha256'), 'hex')`. Equal texts have equal hashes, so hashed keys
  still identify rows and hashed columns still join.
- `truncate` keeps the first characters of the text.
- `null` keeps nothing.

NULL stays NULL.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

from dbmazz_core.model.datatypes import DataType, Kind
from dbmazz_core.model.policies import Mask

#: The text in messages in place of a masked value.
HIDDEN = "***"


@dataclass(frozen=True, slots=True)
class Masker:
    """A mask with its key.

    >>> Masker(Mask("truncate", 3)).text("Zürich".encode())
    'Zür'
    >>> len(Masker(Mask("hash"), "a secret").text(b"ann@example.com"))
    64

    Attributes:
        mask: The mask.
        key: The secret key of hashes; it is never shown.
    """

    mask: Mask
    key: str = field(default="", repr=False)

    def __str__(self) -> str:
        """Return the recorded text: `null`, `truncate:3`, or `hash:` with eight digits that depend on the key."""
        if self.mask.kind != "hash":
            return str(self.mask)
        return f"hash:{hmac.digest(self.key.encode(), b'dbmazz mask key', 'sha256').hex()[:8]}"

    def type(self, type: DataType) -> DataType:
        """Return the type of the masked column."""
        return type if self.mask.kind == "null" else DataType(Kind.STRING)

    def text(self, raw: bytes) -> str | None:
        """Return the masked value for PostgreSQL's text of a value; None for `null`.

        Raises:
            UnicodeDecodeError: The text is to be truncated and is not UTF-8.
        """
        match self.mask.kind:
            case "null":
                return None
            case "hash":
                return hmac.digest(self.key.encode(), raw, "sha256").hex()
            case _:
                return raw.decode()[: self.mask.length]
