"""Connection URLs whose password does not appear in output, errors or logs."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, quote, unquote

from dbmazz_core.errors import ConfigError
from dbmazz_core.settings.paths import expanded

_SECRET_OPTIONS = ("password", "passfile", "sslpassword", "oauth_client_secret")
#: Options that hold a path.
_FILE_OPTIONS = ("passfile", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslcrldir")
_HIDDEN = "***"
#: libpq reads any other text as `key=value` pairs (fe-connect.c, uri_prefix_length).
_PREFIXES = ("postgresql://", "postgres://")


class SecretUrl:
    """A PostgreSQL connection URL or `key=value` string. `str` and `repr` show `***` for the password.

    >>> SecretUrl("postgres://app:s3cret@db.example:5432/shop?sslmode=require")
    SecretUrl('postgres://app:***@db.example:5432/shop?sslmode=require')

    Any libpq option works, in both forms (PostgreSQL manual, section "Connection Strings").

    Attributes:
        parameters: The options by libpq's name, with the password.

    Raises:
        ConfigError: libpq cannot read the text. The message does not repeat the text.
    """

    __slots__ = ("_secrets", "_text", "parameters")

    def __init__(self, text: str, *, variable: str = "SOURCE_URL") -> None:
        self._text = text.strip()
        self.parameters: dict[str, str] = _read(self._text, variable)
        if paths := {k: v for k, v in self.parameters.items() if k in _FILE_OPTIONS and v.startswith("~")}:
            paths = {name: expanded(f"{name} in {variable}", path) for name, path in paths.items()}
            self._text = self.conninfo(**paths)
            self.parameters |= paths
        self._secrets = {self.parameters[k] for k in _SECRET_OPTIONS if self.parameters.get(k)}

    def reveal(self) -> str:
        """Return the text with the password, for libpq only."""
        return self._text

    def conninfo(self, **overrides: str) -> str:
        """Return a libpq connection string with options added or replaced. It contains the password."""
        from psycopg.conninfo import make_conninfo  # not at the top: Dagster loads settings without a connection

        return make_conninfo(self._text, **overrides)

    def pinned(self, *, host: str, hostaddr: str, port: str) -> SecretUrl:
        """Return a URL that names one server, where this URL may name several.

        Args:
            host: Name of the server, or directory of its Unix socket; libpq looks up certificates and passwords by it.
            hostaddr: Numeric address, empty for a Unix socket.
            port: Port of the server.
        """
        return SecretUrl(self.conninfo(host=host, hostaddr=hostaddr, port=port))

    def redact(self, message: str) -> str:
        """Return the message with `***` for the password, also where the password is percent-encoded."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            for form in {secret, quote(secret, safe=""), quote(secret)}:
                message = message.replace(form, _HIDDEN)
        return message

    def __str__(self) -> str:
        if not self._text.startswith(_PREFIXES):
            hidden = {k: (_HIDDEN if k in _SECRET_OPTIONS else v) for k, v in self.parameters.items()}
            from psycopg.conninfo import make_conninfo

            return make_conninfo("", **hidden)
        # libpq reads a password up to the first `@`, whatever else it holds (fe-connect.c, conninfo_uri_parse_options).
        text = re.sub(r"(?<=://)([^@/:]*):[^@/]*@", rf"\1:{_HIDDEN}@", self._text)
        return re.sub(rf"(?<=[?&])({'|'.join(_SECRET_OPTIONS)})=[^&]*", rf"\1={_HIDDEN}", text)

    def __repr__(self) -> str:
        return f"SecretUrl({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretUrl) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> tuple[type[SecretUrl], tuple[str]]:
        return (SecretUrl, (self._text,))


def _read(text: str, variable: str) -> dict[str, str]:
    """Return the options that libpq reads. libpq's messages quote the text with the password: they are never shown."""
    example = "postgres://user:password@host:5432/database"
    from psycopg.conninfo import conninfo_to_dict

    try:
        parameters = {k: str(v) for k, v in conninfo_to_dict(text).items() if v is not None}
    except Exception as error:  # noqa: BLE001 - psycopg raises several kinds here, for one cause
        hint = ""
        known = re.search(r'invalid (?:URI query parameter|connection option): "([\w ]+)"', str(error))
        if known is not None and known[1] in [k for k, _ in parse_qsl(_query(text))]:
            hint = f": unknown option {known[1]!r}"
        raise ConfigError(
            f"{variable} is not a PostgreSQL connection URL{hint}",
            object=variable,
            remedy=f"give one such as {variable}={example}; characters like @ : / % # in a password are "
            "percent-encoded (%40 %3A %2F %25 %23)",
        ) from None
    is_url = text.startswith(_PREFIXES)
    if is_url and re.match(r"[^@/]*@[^?]*@", text.partition("://")[2]):
        # The password would end at the first `@`, and its end would be shown as a part of the host.
        raise ConfigError(
            f"{variable} has more than one @ before its options",
            object=variable,
            remedy="percent-encode an @ in a user, password or database: %40",
        )
    scheme = None if is_url else re.match(r"([A-Za-z][\w+.-]*)://", text)
    if not text or scheme:
        problem = f"has scheme {scheme[1]!r}" if scheme else "is empty"
        raise ConfigError(f"{variable} {problem}", object=variable, remedy=f"give one such as {variable}={example}")
    for port in parameters.get("port", "").split(","):
        if port and not (port.isdecimal() and 0 < int(port) < 65536):
            raise ConfigError(
                f"{variable} is not a PostgreSQL connection URL: its port is not a number from 1 to 65535",
                object=variable,
                remedy=f"give one such as {variable}={example}",
            )
    return parameters


def _query(text: str) -> str:
    return unquote(text.partition("?")[2])
