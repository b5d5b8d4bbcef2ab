"""Output of commands: results on stdout, messages and errors on stderr. Passwords are redacted in both."""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dbmazz_core.errors import DbmazzError
from dbmazz_core.settings.secret_url import SecretUrl

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Exit codes as a shell reports them: 128 plus SIGINT, 128 plus SIGPIPE.
INTERRUPTED = 130
BROKEN_PIPE = 141
#: The command has done its work, but for tables that an error keeps from streaming (`ON_TABLE_ERROR=isolate`).
TABLES_IN_TROUBLE = 8

#: A password in a URL or a connection string that is not the source's, such as a misplaced argument. The word
#: `password` itself is kept, since the examples in remedies use it.
_URL_PASSWORD = re.compile(r"(://[^:/?#\s@]*:)(?!password@)[^\s]*@")
_OPTION_PASSWORD = re.compile(r"\b(password|sslpassword|oauth_client_secret)=('[^']*'|[^\s&]+)", re.IGNORECASE)


class Interrupted(DbmazzError):
    """The user ended the command before it was done."""

    exit_code = INTERRUPTED


@dataclass(slots=True)
class Report:
    """The output of one command.

    Attributes:
        json: Print one JSON object on stdout instead of text.
        debug: Print errors with their traceback.
        url: URL of the source once it is known; its password is redacted in texts of other programs. Errors of dbmazz
            have it redacted where they repeat such a text: in dbmazz's own words a short password would mask parts of
            words, and so tell itself.
    """

    json: bool = False
    debug: bool = False
    url: SecretUrl | None = None

    def redact(self, text: str) -> str:
        """Return the text with `***` for passwords in URLs and connection strings.

        >>> Report().redact("cannot connect to postgres://app:s3cret@db/shop")
        'cannot connect to postgres://app:***@db/shop'
        """
        return _OPTION_PASSWORD.sub(r"\1=***", _URL_PASSWORD.sub(r"\1***@", text))

    def redact_foreign(self, text: str) -> str:
        """Return a text of another program with `***` for passwords, also for the source's wherever it is."""
        return self.redact(text if self.url is None else self.url.redact(text))

    def result(self, value: Mapping[str, Any], *human: RenderableType) -> None:
        """Print the result of a command: `value` as JSON with `--json`, else the texts and tables `human`."""
        if self.json:
            # `backslashreplace` (module `run`) does not give JSON.
            ascii_only = not (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
            sys.stdout.write(json.dumps(value, ensure_ascii=ascii_only, allow_nan=False) + "\n")
        elif all(isinstance(part, str) for part in human):
            sys.stdout.writelines(f"{part}\n" for part in human)
        else:
            from rich.console import Console

            # In a file or a pipe, rich must not fold a table at 80 columns.
            console = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 400)
            with console.capture() as printed:
                for part in human:
                    console.print(part, soft_wrap=isinstance(part, str))
            # rich pads the last column with blanks.
            sys.stdout.writelines(f"{line.rstrip()}\n" for line in printed.get().splitlines())
        sys.stdout.flush()

    def message(self, text: str) -> None:
        """Print a line on stderr."""
        sys.stderr.write(self.redact(text) + "\n")
        sys.stderr.flush()

    def error(self, error: DbmazzError) -> int:
        """Print an error and return its exit code."""
        if self.debug:
            self.message(self._traceback(error).rstrip())
        if self.json:
            described = {k: self.redact(v) if isinstance(v, str) else v for k, v in error.to_dict().items()}
            self.result(described)
        else:
            self.message(f"error: {error}")
        return error.exit_code

    def _traceback(self, error: BaseException) -> str:
        """Return the traceback of an error and of those that it followed from, with foreign messages redacted."""
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        before = f"{self._traceback(cause)}\nThe error above led to this one:\n\n" if cause is not None else ""
        message = "".join(traceback.format_exception_only(error))
        message = message if isinstance(error, DbmazzError) else self.redact_foreign(message)
        return (
            f"{before}Traceback (most recent call last):\n{''.join(traceback.format_tb(error.__traceback__))}{message}"
        )

    def unexpected(self, error: Exception) -> int:
        """Print an exception that is not a `DbmazzError`, and return the exit code."""
        kind = type(error).__name__
        problem = DbmazzError(
            f"unexpected {kind}: {self.redact_foreign(str(error)).strip() or 'no message'}",
            object="dbmazz",
            remedy="nothing was applied beyond the last checkpoint. Run the command again; if the error repeats, "
            "please report it with the output of the same command with --debug",
        )
        problem.__cause__ = error
        return self.error(problem)

    def start_logging(self, verbosity: int) -> None:
        """Send log messages to stderr: warnings (verbosity 0), information (1) or debug messages (2)."""
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        handler.addFilter(self._redact_log_record)
        logging.basicConfig(level=(logging.WARNING, logging.INFO, logging.DEBUG)[min(verbosity, 2)], handlers=[handler])

    def _redact_log_record(self, record: logging.LogRecord) -> bool:
        redact = self.redact if record.name.partition(".")[0].startswith("dbmazz") else self.redact_foreign
        record.msg, record.args = redact(record.getMessage()), ()
        return True
