"""What a check has found, and the state of the source that it looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from dbmazz_core.connectors.sources.postgres.catalog import TableInfo
from dbmazz_core.connectors.sources.postgres.connection import Connection
from dbmazz_core.connectors.sources.postgres.publication import (
    Publication,
    Step,
    identity_steps,
    publication_step,
    read_publication,
)
from dbmazz_core.connectors.sources.postgres.resolution import Resolution, resolve_tables
from dbmazz_core.connectors.sources.postgres.server_state import (
    ServerFacts,
    SlotState,
    server_facts,
    slot_state,
)
from dbmazz_core.errors import DbmazzError
from dbmazz_core.settings.config import SourceConfig
from dbmazz_core.table_ref import TableRef

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: `error` prevents capturing, `warning` does not.
        what: What is so, one sentence.
        object: The object it is so of.
        error: With its remedy; always there for an error, sometimes for a warning.
    """

    level: Level
    what: str
    object: str
    error: DbmazzError | None = None

    @classmethod
    def of(cls, error: DbmazzError, level: Level = "error") -> Finding:
        """A finding that something is wrong."""
        return cls(level, error.what, error.object, error)

    def to_dict(self) -> dict[str, str]:
        """Keys `level`, `what`, `object`; where something is wrong also `error` (its kind) and `remedy`."""
        found = {"level": str(self.level), "what": self.what, "object": self.object}
        if self.error is not None:
            found |= {"error": type(self.error).__name__, "remedy": self.error.remedy}
        return found


@dataclass(frozen=True, slots=True)
class CheckReport:
    """All findings, in the order in which they are to be mended."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing prevents capturing."""
        return not self.errors

    @property
    def errors(self) -> list[DbmazzError]:
        """What prevents capturing."""
        return [f.error for f in self.findings if f.level == "error" and f.error is not None]

    @property
    def warnings(self) -> list[Finding]:
        """What does not prevent it, but should be known."""
        return [f for f in self.findings if f.level == "warning"]

    def raise_first(self) -> None:
        """Raise the first error, if there is one."""
        for error in self.errors:
            raise error

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it: `ok` and `findings`."""
        return {"ok": self.ok, "findings": [f.to_dict() for f in self.findings]}


@dataclass(frozen=True, slots=True)
class Situation:
    """The source as it is, in so far as setup is concerned.

    Attributes:
        config: What is wanted.
        facts: The server.
        resolution: The tables.
        readable_schemas: Schemas that the role may use.
        publication: None where there is none.
        slot: None where there is none.
        captured: Tables that the destination already holds and follows.
    """

    config: SourceConfig
    facts: ServerFacts
    resolution: Resolution
    readable_schemas: frozenset[str]
    publication: Publication | None
    slot: SlotState | None
    captured: frozenset[TableRef]

    @classmethod
    def read(cls, conn: Connection, config: SourceConfig, captured: frozenset[TableRef]) -> Situation:
        """Look at the source."""
        return cls(
            config=config,
            facts=server_facts(conn),
            resolution=resolve_tables(conn, config.tables),
            readable_schemas=frozenset(
                schema
                for (schema,) in conn.execute(
                    "SELECT nspname::text FROM pg_catalog.pg_namespace WHERE has_schema_privilege(oid, 'USAGE')"
                )
            ),
            publication=read_publication(conn, config.publication),
            slot=slot_state(conn, config.slot),
            captured=captured,
        )

    @property
    def tables(self) -> tuple[TableInfo, ...]:
        """The configured tables."""
        return self.resolution.tables

    def identity_steps(self) -> list[Step]:
        """Statements that set replica identities."""
        return identity_steps(self.tables, self.config.replica_identity)

    def publication_step(self) -> Step | None:
        """The statement that creates or completes the publication."""
        return publication_step(self.config, self.publication, self.tables, self.facts.version_num)

    def steps(self) -> list[Step]:
        """All statements that are needed, in order.

        Replica identities first: a published table without one refuses every UPDATE and DELETE.
        """
        last = self.publication_step()
        return [*self.identity_steps(), *([last] if last else [])]
