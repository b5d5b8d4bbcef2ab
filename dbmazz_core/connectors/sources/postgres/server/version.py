"""Supported versions of the server, and minor versions whose logical decoding has bugs."""

from __future__ import annotations

from dbmazz_core.errors import UnsupportedServerVersion

_MINIMUM = 14
#: Major version: first minor version with the fix of PostgreSQL commit 4909b38af0. Before it, the stream lacked changes
#: that a transaction made after a concurrent ALTER PUBLICATION ... ADD TABLE, if the transaction had begun before.
_LOSES_CHANGES_BEFORE = {14: 18, 15: 13, 16: 9, 17: 5}
#: Major version: first minor version with the fix of commit d87d07b7ad. Commit 4909b38af0 made memory grow
#: exponentially with concurrent schema changes, until decoding failed with "invalid memory alloc request size" (bugs
#: #18938 and #18942).
_RUNS_OUT_OF_MEMORY_BEFORE = {14: 19, 15: 14, 16: 10, 17: 6}


def unsupported_version(version_num: int, version: str) -> UnsupportedServerVersion | None:
    """Return the error for a server before PostgreSQL 14, or None."""
    if version_num >= _MINIMUM * 10000:
        return None
    return UnsupportedServerVersion(
        f"the server is PostgreSQL {version}; dbmazz needs {_MINIMUM} or newer",
        object=f"PostgreSQL {version}",
        remedy=f"upgrade the server to PostgreSQL {_MINIMUM} or newer",
    )


def known_decoding_bug(version_num: int) -> str | None:
    """Return a bug of this minor version's logical decoding as a predicate ("can lose changes ..."), or None."""
    major, minor = divmod(version_num, 10000)
    if minor < _LOSES_CHANGES_BEFORE.get(major, 0):
        return (
            "can lose changes of a transaction that is open while a table is added to a publication "
            f"(fixed in {major}.{_LOSES_CHANGES_BEFORE[major]}, PostgreSQL commit 4909b38af0)"
        )
    if minor < _RUNS_OUT_OF_MEMORY_BEFORE.get(major, 0):
        return (
            "can fail to decode with 'invalid memory alloc request size' after schema changes "
            f"(fixed in {major}.{_RUNS_OUT_OF_MEMORY_BEFORE[major]}, PostgreSQL bug #18938)"
        )
    return None
