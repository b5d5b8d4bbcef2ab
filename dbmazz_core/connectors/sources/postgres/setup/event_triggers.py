"""Event triggers: functions that PostgreSQL calls at DDL, which may fail or refuse it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dbmazz_core.connectors.sources.postgres.connection import Connection
from dbmazz_core.table_ref import quote_identifier


@dataclass(frozen=True, slots=True)
class EventTrigger:
    """An event trigger that is enabled.

    Attributes:
        name: Its name.
        function: Its function with schema and parentheses, as in SQL.
        always: Whether it also fires where `session_replication_role` is `replica`.
    """

    name: str
    function: str
    always: bool

    def __str__(self) -> str:
        return f"{quote_identifier(self.name)} (function {self.function})"

    @property
    def disable(self) -> str:
        """The statement that disables the trigger. No event trigger fires at it (manual, "Event Triggers")."""
        return f"ALTER EVENT TRIGGER {quote_identifier(self.name)} DISABLE;"

    @property
    def enable(self) -> str:
        """The statement that brings the trigger back to its present state."""
        return f"ALTER EVENT TRIGGER {quote_identifier(self.name)} ENABLE{' ALWAYS' if self.always else ''};"


def event_triggers(conn: Connection, commands: Sequence[str]) -> list[EventTrigger]:
    """Return the event triggers that fire at commands, by name, in the order in which they fire.

    Args:
        conn: A connection to the database of the triggers, with an empty `search_path`.
        commands: Command tags such as `ALTER PUBLICATION`.
    """
    return [
        EventTrigger(*row)
        for row in conn.execute(
            """
            SELECT evtname::text, evtfoid::regprocedure::text, evtenabled = 'A'
            FROM pg_catalog.pg_event_trigger
            WHERE evtenabled IN ('O', 'A') AND (evttags IS NULL OR evttags && %(commands)s)
              AND (evtevent IN ('ddl_command_start', 'ddl_command_end') OR (evtevent = 'sql_drop' AND %(drops)s))
            ORDER BY evtname
            """,
            {"commands": list(commands), "drops": any(command.startswith("DROP ") for command in commands)},
        )
    ]


def without_triggers(triggers: Sequence[EventTrigger], statement: str) -> str:
    """Return SQL that runs a statement while event triggers are disabled, for this transaction alone."""
    disable, enable = (" ".join(sql) for sql in zip(*((t.disable, t.enable) for t in triggers), strict=True))
    return f"BEGIN; {disable} {statement} {enable} COMMIT;"
