"""Redaction of the secret fields of a resource: connection URLs and keys that are given as text.

Dagster shows the values of a resource's fields in its UI, and `repr` of the resource prints them. Before a run, Dagster
also constructs the resource again from these values. The field therefore has the URL with a redacted password, and this
module maps the redacted text to the whole URL, in this process only. A run in another process loads the definitions,
and the URL with them, again.
"""

from __future__ import annotations

from typing import Final

from dbmazz_core.errors import ConfigError
from dbmazz_core.settings.secret_url import SecretUrl

_HIDDEN_SECRET: Final = "*** (secret)"
_UNREADABLE: Final = "*** (not a connection URL)"

_revealed: dict[str, str] = {}


def redact_url(text: str) -> str:
    """Return a URL with `***` for its password. URLs that differ only in the password get different numbers after it.

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
        # A malformed URL may have its password anywhere. `DbmazzResource.settings` reports the error.
        shown = _UNREADABLE
    return text if shown == text else _remember(text, shown)


def redact_secret(text: str) -> str:
    """Return a text that stands for a secret. Different secrets get different numbers.

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
    """Return the URL or the secret that a redacted text stands for."""
    return _revealed.get(shown, shown)
