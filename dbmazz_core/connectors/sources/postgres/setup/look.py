"""One look at the source: everything that check, set-up and resuming have to know of it, read once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Self

from dbmazz_core.connectors.sources.postgres.catalog.description import TableInfo
from dbmazz_core.connectors.sources.postgres.catalog.publication import (
    Publication,
    Step,
    identity_steps,
    publication_step,
    read_publication,
)
from dbmazz_core.connectors.sources.postgres.catalog.resolution import Resolution, resolve_tables
from dbmazz_core.connectors.sources.postgres.connection import Connection
from dbmazz_core.connectors.sources.postgres.server.state import (
    ServerFacts,
    SlotState,
    server_facts,
    slot_state,
)
from dbmazz_core.connectors.sources.postgres.server.version import unsupported_version
from dbmazz_core.settings.config import SourceConfig
from dbmazz_core.table_ref import TableRef


@dataclass(frozen=True, slots=True)
class Look:
    """The source as it was when it was looked at.

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
    captured: frozenset[TableRef] = frozenset()

    @classmethod
    def read(cls, conn: Connection, config: SourceConfig) -> Self:
        """Look at the source.

        Raises:
            UnsupportedServerVersion: Its catalog would not even have the columns.
        """
        version = (conn.info.parameter_status("server_version") or "").split(" ")[0]
        if (unsupported := unsupported_version(conn.info.server_version, version)) is not None:
            raise unsupported
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
        )

    def following(self, captured: Collection[TableRef]) -> Look:
        """The same, with tables that the destination already holds and follows."""
        return replace(self, captured=frozenset(captured))

    @property
    def tables(self) -> tuple[TableInfo, ...]:
        """The configured tables."""
        return self.resolution.tables

    def verify_tables(self) -> None:
        """See `model.source.Look.verify_tables`."""
        self.resolution.verify()

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
