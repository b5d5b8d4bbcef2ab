"""The SQL statements that set replica identities, and create or complete the publication."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dbmazz_core.connectors.sources.postgres.catalog.description import TableInfo
from dbmazz_core.connectors.sources.postgres.catalog.publication import OPERATIONS, Publication
from dbmazz_core.connectors.sources.postgres.catalog.publication_comment import CREATED_BY_DBMAZZ
from dbmazz_core.connectors.sources.postgres.catalog.published_relations import GENERATED_COLUMNS_VERSION
from dbmazz_core.settings.config import SourceConfig
from dbmazz_core.settings.replica_identity import ReplicaIdentityPolicy
from dbmazz_core.table_ref import TableRef, quote_identifier, quote_literal

_ALL_OPERATIONS = ", ".join(OPERATIONS)


@dataclass(frozen=True, slots=True)
class SetupStatement:
    """A statement that setup runs.

    Attributes:
        sql: The statement, with a semicolon at its end.
        done: What the statement did, for the report.
        object: The table or the publication that the statement changes, for errors.
        commands: Command tags, as event triggers know them.
        table: The table that the statement alters, or None.
        captured: The configured tables that need the statement.
    """

    sql: str
    done: str
    object: str
    commands: tuple[str, ...]
    table: TableRef | None = None
    captured: tuple[TableRef, ...] = ()

    @property
    def locked(self) -> tuple[TableRef, ...]:
        """The tables that the statement locks."""
        return (self.table,) if self.table is not None else self.captured


def replica_identity_statements(tables: Iterable[TableInfo], policy: ReplicaIdentityPolicy) -> list[SetupStatement]:
    """Return the statements that set REPLICA IDENTITY FULL where the policy wants it and the server permits it.

    Each partition has a replica identity of its own.
    """
    return [
        SetupStatement(
            f"ALTER TABLE {member.ref.sql} REPLICA IDENTITY FULL;",
            f"set replica identity FULL on {member.ref}",
            str(member.ref),
            ("ALTER TABLE",),
            member.ref,
            (table.ref,),
        )
        for table in tables
        if not table.full_identity_fails
        and (
            policy is ReplicaIdentityPolicy.FULL
            or (policy is ReplicaIdentityPolicy.AUTO and not table.has_usable_identity)
        )
        for member in table.replica_identities
        if member.replica_identity != "f"
    ]


def publication_statement(
    config: SourceConfig, publication: Publication | None, tables: Sequence[TableInfo], version_num: int
) -> SetupStatement | None:
    """Return the statement that creates the publication or adds missing tables; None if no table is missing.

    Setup never removes tables.

    Args:
        config: Settings of the source.
        publication: The publication; None if it does not exist.
        tables: The tables to publish.
        version_num: `server_version_num`.
    """
    name, object = quote_identifier(config.publication_name), f"publication {config.publication_name}"
    if publication is None and not tables:
        return None
    if publication is None:
        create = create_publication(config.publication_name, tables, version_num)
        return SetupStatement(
            f"{create} {_comment(config.publication_name, CREATED_BY_DBMAZZ)}",
            f"created publication {name}",
            object,
            ("CREATE PUBLICATION", "COMMENT"),
            captured=tuple(table.ref for table in tables),
        )
    missing = publication.missing_tables(tables)
    if not missing:
        return None
    added = ", ".join(str(t.ref) for t in missing)
    return SetupStatement(
        f"ALTER PUBLICATION {name} ADD TABLE {_table_list(missing)};",
        f"added table{'s' if len(missing) > 1 else ''} {added} to publication {name}",
        object,
        ("ALTER PUBLICATION",),
        captured=tuple(table.ref for table in missing),
    )


def comment_on_publication(name: str, comment: str) -> SetupStatement:
    """Return the statement that changes the comment on a publication."""
    return SetupStatement(
        _comment(name, comment),
        f"commented on publication {quote_identifier(name)}",
        f"publication {name}",
        ("COMMENT",),
    )


def _comment(name: str, comment: str) -> str:
    return f"COMMENT ON PUBLICATION {quote_identifier(name)} IS {quote_literal(comment)};"


def drop_publication(name: str) -> SetupStatement:
    """Return the statement that drops a publication."""
    quoted = quote_identifier(name)
    return SetupStatement(
        f"DROP PUBLICATION IF EXISTS {quoted};",
        f"dropped publication {quoted}",
        f"publication {name}",
        ("DROP PUBLICATION",),
    )


def create_publication(name: str, tables: Sequence[TableInfo], version_num: int) -> str:
    """Return the statement that creates a publication of all operations on the tables."""
    options = [f"publish = '{_ALL_OPERATIONS}'", "publish_via_partition_root = true"]
    if version_num >= GENERATED_COLUMNS_VERSION:
        # Without this option generated columns would be missing, and the server would refuse every UPDATE and DELETE of
        # a table with such columns and REPLICA IDENTITY FULL (publicationcmds.c, pub_contains_invalid_column).
        options.append("publish_generated_columns = stored")
    publication, table_list = quote_identifier(name), _table_list(tables)
    return f"CREATE PUBLICATION {publication} FOR TABLE {table_list} WITH ({', '.join(options)});"


def publish_all_operations(name: str) -> str:
    """Return the statement that makes a publication publish all operations."""
    return f"ALTER PUBLICATION {quote_identifier(name)} SET (publish = '{_ALL_OPERATIONS}');"


def _table_list(tables: Iterable[TableInfo]) -> str:
    # Without ONLY, the tables that inherit from the table would be published too.
    return ", ".join(f"ONLY {t.ref.sql}" if t.has_children else t.ref.sql for t in tables)
