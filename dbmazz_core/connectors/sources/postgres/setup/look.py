"""One look at the source: all facts that check, setup and resume need, read once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Self

from dbmazz_core.connectors.sources.postgres.catalog.description import TableInfo
from dbmazz_core.connectors.sources.postgres.catalog.publication import Publication, read_chosen_publication
from dbmazz_core.connectors.sources.postgres.catalog.publication_name import possible_names
from dbmazz_core.connectors.sources.postgres.catalog.resolution import Resolution, resolve_tables
from dbmazz_core.connectors.sources.postgres.connection import Connection
from dbmazz_core.connectors.sources.postgres.server.state import (
    ServerFacts,
    SlotState,
    server_facts,
    slot_state,
)
from dbmazz_core.connectors.sources.postgres.server.version import unsupported_version
from dbmazz_core.connectors.sources.postgres.setup.statements import (
    SetupStatement,
    publication_statement,
    replica_identity_statements,
)
from dbmazz_core.errors import SourceNotReady
from dbmazz_core.settings.config import SourceConfig
from dbmazz_core.table_ref import TableRef


@dataclass(frozen=True, slots=True)
class Look:
    """The state of the source at one time.

    Attributes:
        config: Settings of the source, with the name of the publication.
        facts: Server and role.
        resolution: The configured tables.
        readable_schemas: Schemas that the role may use.
        publication: The publication; None if it does not exist.
        slot: The slot; None if it does not exist.
        captured: Tables that the destination already holds.
        excluded: Configured tables that are not captured now.
        default_publication: The name that the publication would have if the slot had not begun with another one;
            None: it has this name, or that of the settings.
    """

    config: SourceConfig
    facts: ServerFacts
    resolution: Resolution
    readable_schemas: frozenset[str]
    publication: Publication | None
    slot: SlotState | None
    captured: frozenset[TableRef] = frozenset()
    excluded: frozenset[TableRef] = frozenset()
    default_publication: str | None = None

    @classmethod
    def read(cls, conn: Connection, config: SourceConfig) -> Self:
        """Read the state of the source.

        Raises:
            UnsupportedServerVersion: The server is too old: its catalog does not have all columns of the queries.
        """
        version = (conn.info.parameter_status("server_version") or "").split(" ")[0]
        if (unsupported := unsupported_version(conn.info.server_version, version)) is not None:
            raise unsupported
        facts, resolution = server_facts(conn), resolve_tables(conn, config.tables)
        readable = conn.execute(
            "SELECT nspname::text FROM pg_catalog.pg_namespace WHERE has_schema_privilege(oid, 'USAGE')"
        )
        slot = slot_state(conn, config.slot)
        name, publication = read_chosen_publication(conn, config, slot_exists=slot is not None)
        default = possible_names(config)[0]
        return cls(
            config=replace(config, publication=name),
            facts=facts,
            resolution=resolution,
            readable_schemas=frozenset(schema for (schema,) in readable),
            publication=publication,
            slot=slot,
            default_publication=None if name == default else default,
        )

    def following(self, captured: Collection[TableRef]) -> Look:
        """Return this look with tables that the destination already holds."""
        return replace(self, captured=frozenset(captured))

    def without(self, excluded: Collection[TableRef]) -> Look:
        """Return this look without some of its tables."""
        return replace(self, excluded=self.excluded.union(excluded)) if excluded else self

    @property
    def tables(self) -> tuple[TableInfo, ...]:
        """The configured tables that can be captured, without excluded ones."""
        if not self.excluded:
            return self.resolution.tables
        return tuple(table for table in self.resolution.tables if table.ref not in self.excluded)

    @property
    def table_errors(self) -> list[SourceNotReady]:
        """The errors for configured tables that do not exist or cannot be captured, without excluded ones."""
        return [e for e in self.resolution.errors if not e.tables or not self.excluded.issuperset(e.tables)]

    @property
    def finds(self) -> tuple[object, ...]:
        """All that lets a window do something: it is the same in two looks if nothing of that has changed."""
        publication = self.publication
        return (
            {(table.oid, table.ref) for table in self.resolution.tables},
            [error.what for error in self.resolution.errors],
            self.readable_schemas,
            publication and replace(publication, tables={}, comment=None),
            publication and {ref: table.entry for ref, table in publication.tables.items()},
            [statement.sql for statement in self.statements()],
        )

    def verify_tables(self) -> None:
        """Raise TableNotFound or TableNotSupported if a configured table cannot be captured."""
        for error in self.table_errors:
            raise error

    def publication_statement(self) -> SetupStatement | None:
        """Return the statement that creates or completes the publication; None if it is complete."""
        return publication_statement(self.config, self.publication, self.tables, self.facts.version_num)

    def statements(self) -> list[SetupStatement]:
        """Return all statements that setup must run, in order.

        Replica identities come first: the server refuses every UPDATE and DELETE of a published table without one.
        """
        identities = replica_identity_statements(self.tables, self.config.replica_identity)
        last = self.publication_statement()
        return [*identities, *([last] if last else [])]
