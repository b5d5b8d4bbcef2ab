"""Connection URLs and keys given as text, kept out of what Dagster shows.

Dagster shows the values of a resource's fields: in its UI, and in whatever prints the resource. It also
builds the resource anew from these values before a run. So the field holds the URL without its password, and
the whole URL waits here, in this process only; a run in another process loads the definitions, and with them
the URL, again.
"""

from __future__ import annotations

from typing import Final

from dbmazz_core.errors import ConfigError
from dbmazz_core.settings.secret_url import SecretUrl

_HIDDEN_SECRET: Final = "*** (secret)"
_UNREADABLE: Final = "*** (not a connection URL)"

_revealed: dict[str, str] = {}


def redact_url(text: str) -> str:
    """The URL with its password hidden. Two that differ in the password alone are told apart by a number.

    >>> redact_url("postgres://app:s3cret@db/shop")
    'postgres://app:***@db/shop'
    >>> redact_url(redact_url("postgres://app:s3cret@db/shop"))
    'postgres://app:***@db/shop'
    >>> reveal(redact_url("postgres://app:other@db/shop"))
    'postgres://app:other@db/shop'
    """
    if text in _revealed:
        return text
    try:
        shown = str(SecretUrl(text))
    except ConfigError:
        # Not readable, so no telling where its password is. What is wrong with it, `settings()` says.
        shown = _UNREADABLE
    return text if shown == text else _remember(text, shown)


def redact_secret(text: str) -> str:
    """A secret as a whole hidden. Another one is told apart by a number.

    >>> reveal(redact_secret("key one")), redact_secret("key one") == redact_secret("key two")
    ('key one', False)
    >>> redact_secret(redact_secret("key one")) == redact_secret("key one")
    True
    """
    return text if text in _revealed or not text else _remember(text, _HIDDEN_SECRET)


def _remember(text: str, shown: str) -> str:
    candidate, number = shown, 1
    while _revealed.setdefault(candidate, text) != text:
        number += 1
        candidate = shown.replace("***", f"***{number}")
    return candidate


def reveal(shown: str) -> str:
    """The URL, or the secret, that was given."""
    return _revealed.get(shown, shown)
