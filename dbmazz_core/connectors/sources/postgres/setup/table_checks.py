"""Checks of tables and publication: privileges, replica identities, published rows and columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from dbmazz_core.connectors.sources.postgres.catalog.column_choice import ColumnRules
from dbmazz_core.connectors.sources.postgres.catalog.description import CatalogColumn, TableInfo
from dbmazz_core.connectors.sources.postgres.catalog.publication import (
    Publication,
    PublishedTable,
)
from dbmazz_core.connectors.sources.postgres.catalog.published_relations import GENERATED_COLUMNS_VERSION
from dbmazz_core.connectors.sources.postgres.errors.running import publication_not_found
from dbmazz_core.connectors.sources.postgres.setup.look import Look
from dbmazz_core.connectors.sources.postgres.setup.read_privileges import (
    columns_to_read,
    grant_to_read,
    unreadable_columns,
)
from dbmazz_core.connectors.sources.postgres.setup.statements import (
    create_publication,
    publish_all_operations,
    replica_identity_statements,
)
from dbmazz_core.errors import (
    MissingPrivilege,
    PublicationLacksTable,
    PublicationNotFound,
    ReplicaIdentityInsufficient,
    SourceError,
)
from dbmazz_core.model.findings import Finding
from dbmazz_core.settings.replica_identity import ReplicaIdentityPolicy
from dbmazz_core.table_ref import TableRef, quote_identifier


def table_findings(look: Look) -> Iterator[Finding]:
    """Yield findings about the configured tables: existence, kind, privileges, inheritance and replica identity."""
    yield from (Finding.of(error) for error in look.table_errors)
    yield from (Finding.of(error, "warning") for error in look.resolution.empty)
    for ref, what in look.resolution.left_out:
        yield Finding("warning", f"{ref} is left out: it is {what}", str(ref))
    tables = look.tables
    role = quote_identifier(look.facts.role)
    for schema in dict.fromkeys(t.ref.schema for t in tables):
        if schema not in look.readable_schemas:
            grant = f"GRANT USAGE ON SCHEMA {quote_identifier(schema)} TO {role};"
            yield _missing_privilege(
                f"role {role} may not use schema {quote_identifier(schema)}",
                f"schema {schema}",
                grant,
                [table for table in tables if table.ref.schema == schema],
            )
    for table in tables:
        if unreadable := unreadable_columns(look, table):
            columns = "" if unreadable == columns_to_read(look, table) else f"columns {', '.join(unreadable)} of "
            yield _missing_privilege(
                f"role {role} may not read {columns}{table.ref}", table.ref, grant_to_read(look, table)
            )
        if table.hides_rows:
            yield _missing_privilege(
                f"row-level security hides rows of {table.ref} from role {role}; the stream would contain "
                "these rows, a snapshot would not",
                table.ref,
                f"ALTER ROLE {role} BYPASSRLS;",
            )
        if table.has_children:
            yield Finding(
                "warning",
                f"tables that inherit from {table.ref} are not captured with it; add them to TABLES if you need them",
                str(table.ref),
            )
        yield _identity_finding(look, table)


def column_findings(look: Look) -> Iterator[Finding]:
    """Yield findings about rules for columns that do not fit the tables."""
    for problem in ColumnRules(look.config).problems(look.tables, look.resolution.tables):
        yield Finding.of(problem)


def _missing_privilege(what: str, object: str | TableRef, remedy: str, tables: Iterable[TableInfo] = ()) -> Finding:
    return Finding.of(MissingPrivilege(what, object=object, remedy=remedy, tables=[table.ref for table in tables]))


def _identity_finding(look: Look, table: TableInfo) -> Finding:
    """Return the finding about the replica identity of a table."""
    policy, ref = look.config.replica_identity, table.ref
    steps = replica_identity_statements([table], policy)
    statements = " ".join(step.sql for step in steps)
    if steps and not table.owned:
        return _missing_privilege(
            f"{ref} needs REPLICA IDENTITY FULL, which role {quote_identifier(look.facts.role)} may not "
            f"set: the table belongs to {quote_identifier(table.owner)}",
            ref,
            f"as {quote_identifier(table.owner)} or a superuser: {statements}",
        )
    if steps and look.facts.in_recovery:
        return Finding.of(
            ReplicaIdentityInsufficient(
                f"{ref} needs REPLICA IDENTITY FULL, which cannot be set on a standby",
                object=ref,
                remedy=f"on the primary: {statements}",
            )
        )
    if steps:
        return Finding("ok", f"{ref} will get REPLICA IDENTITY FULL", str(ref))
    with_full = [member.ref for member in table.replica_identities if member.replica_identity == "f"]
    if table.full_identity_fails and (with_full or not table.has_usable_identity):
        virtual = ", ".join(c.name for c in table.columns if c.generated == "v")
        return Finding.of(
            ReplicaIdentityInsufficient(
                f"{ref} has virtual generated columns ({virtual}), which are never published: the server refuses its "
                "updates and deletes with REPLICA IDENTITY FULL, and it has no other replica identity",
                object=ref,
                remedy=" ".join(f"ALTER TABLE {m.sql} REPLICA IDENTITY DEFAULT;" for m in with_full or [table.ref])
                + " (this needs a primary key), or drop the columns or make them STORED",
            )
        )
    if not table.has_usable_identity:
        full = " ".join(s.sql for s in replica_identity_statements([table], ReplicaIdentityPolicy.FULL))
        return Finding.of(
            ReplicaIdentityInsufficient(
                f"{ref} has no primary key that can serve as replica identity (a deferrable one cannot): its "
                "updates and deletes would not identify the row",
                object=ref,
                remedy=f"{full} (or add a primary key; or set REPLICA_IDENTITY=auto, which sets it where needed)",
            )
        )
    rows = f"identified by {', '.join(table.key)}" if table.key else "a multiset: no key identifies a row"
    return Finding("ok", f"{ref} has a usable replica identity; its rows are {rows}", str(ref))


def publication_findings(look: Look) -> Iterator[Finding]:
    """Yield findings about the publication: existence, operations, tables, row filters and column lists."""
    publication, tables = look.publication, look.tables
    if publication is None:
        yield _missing_publication_finding(look)
        return
    name = quote_identifier(publication.name)
    if look.default_publication is not None:
        yield Finding(
            "ok",
            f"replication slot {look.config.slot} has begun with publication {name} and keeps it; a new slot of this "
            f"name would use {quote_identifier(look.default_publication)}",
            f"publication {publication.name}",
        )
    as_owner = "" if publication.owned else f"as {quote_identifier(publication.owner)} or a superuser: "
    if publication.missing_operations:
        yield _publication_problem(
            publication,
            f"publication {name} does not publish {', '.join(publication.missing_operations)}",
            f"{as_owner}{publish_all_operations(publication.name)}",
        )
    yield from _unpublished_table_findings(look, publication, as_owner)
    for table in tables:
        yield from _published_part_findings(look, publication, table)


def _unpublished_table_findings(look: Look, publication: Publication, as_owner: str) -> Iterator[Finding]:
    """Yield findings about configured tables whose changes are not published under their names.

    Args:
        look: The source.
        publication: The publication.
        as_owner: Words of a remedy for a role that does not own the publication; empty if the role owns it.
    """
    name = quote_identifier(publication.name)
    missing = publication.missing_tables(look.tables)
    partitioned = [t for t in missing if t.is_partitioned and not publication.via_root]
    if partitioned:
        yield _publication_problem(
            publication,
            f"publication {name} publishes the changes of partitioned tables under their partitions' names "
            f"({', '.join(str(t.ref) for t in partitioned)})",
            f"{as_owner}ALTER PUBLICATION {name} SET (publish_via_partition_root = true);",
            partitioned,
        )
    under_root = [t for t in missing if publication.via_root and publication.tables.keys() & set(t.ancestors)]
    for table in under_root:
        root = next(a for a in table.ancestors if a in publication.tables)
        yield _publication_problem(
            publication,
            f"publication {name} publishes the changes of partition {table.ref} as those of {root}",
            f"put {root} into TABLES instead of {table.ref}, or use another publication",
            [table],
        )
    missing = [t for t in missing if t not in partitioned and t not in under_root]
    removed = [t for t in missing if t.ref in look.captured]
    if removed:
        names = ", ".join(str(t.ref) for t in removed)
        yield _publication_problem(
            publication,
            f"publication {name} no longer has {names}: changes since the removal are lost",
            f"run `dbmazz snapshot --tables '{','.join(str(t.ref) for t in removed)}'`: it adds the tables again and "
            "re-snapshots them",
            removed,
        )
    elif missing:
        yield _missing_tables_finding(look, publication, missing)
    elif not partitioned and not under_root:
        yield Finding("ok", f"publication {name} has every table", f"publication {publication.name}")


def _missing_publication_finding(look: Look) -> Finding:
    """Return the finding about a publication that does not exist: whether setup can create it."""
    name, role = quote_identifier(look.config.publication_name), quote_identifier(look.facts.role)
    object = f"publication {look.config.publication_name}"
    if look.captured:
        return Finding.of(publication_not_found(look.config.publication_name))
    if not look.tables:
        return Finding("ok", f"publication {name} does not exist yet", object)
    create = create_publication(look.config.publication_name, look.tables, look.facts.version_num)
    if look.facts.in_recovery:
        return Finding.of(
            PublicationNotFound(
                f"publication {name} does not exist, and cannot be created on a standby",
                object=object,
                remedy=f"on the primary: {create}",
            )
        )
    foreign = _not_owned(look.tables)
    if foreign:
        owners = " and ".join(sorted({quote_identifier(t.owner) for t in foreign}))
        return _missing_privilege(
            f"role {role} may not create publication {name}: only the owner of a table may publish it, and "
            f"{', '.join(str(t.ref) for t in foreign)} belongs to {owners}",
            object,
            f"as a superuser (or as {owners}, if that role may create in the database): {create}",
            foreign,
        )
    if not look.facts.may_create:
        database = quote_identifier(look.facts.database)
        return _missing_privilege(
            f"role {role} may not create publications in database {database}",
            f"database {look.facts.database}",
            f"GRANT CREATE ON DATABASE {database} TO {role};",
        )
    return Finding("ok", f"publication {name} will be created", object)


def _missing_tables_finding(look: Look, publication: Publication, missing: Sequence[TableInfo]) -> Finding:
    """Return the finding about tables that are not published yet: whether setup can add them."""
    name = quote_identifier(publication.name)
    names = ", ".join(str(t.ref) for t in missing)
    statement = look.publication_statement()
    if statement is None or (publication.owned and not _not_owned(missing) and not look.facts.in_recovery):
        return Finding("ok", f"{names} will be added to publication {name}", f"publication {publication.name}")
    where = "on the primary, as a superuser" if look.facts.in_recovery else "as a superuser"
    return _publication_problem(
        publication,
        f"publication {name} lacks {names}, and role {quote_identifier(look.facts.role)} may not add "
        f"it: only the owner of both can (publication: {quote_identifier(publication.owner)})",
        f"{where} or the owner: {statement.sql}",
        missing,
    )


def _published_part_findings(look: Look, publication: Publication, table: TableInfo) -> Iterator[Finding]:
    """Yield findings about a row filter, and about columns that are not published."""
    published = publication.tables.get(table.ref)
    if published is None:
        return
    name = quote_identifier(publication.name)
    is_full = bool(replica_identity_statements([table], look.config.replica_identity)) or table.replica_identity == "f"
    if published.row_filter is not None:
        yield _row_filter_finding(publication, table, published, is_full=is_full)
    published_names = set(publication.columns_of(table))
    missing = [c for c in table.columns if c.name not in published_names]
    if listed := [c.name for c in missing if not c.generated]:
        yield _column_list_finding(name, table, listed, is_full=is_full)
    if generated := [c for c in missing if c.generated]:
        supported = look.facts.version_num >= GENERATED_COLUMNS_VERSION
        yield _generated_columns_finding(name, table, generated, is_full=is_full, publishable=supported)


def _column_list_finding(publication: str, table: TableInfo, columns: Sequence[str], *, is_full: bool) -> Finding:
    """Return the finding about columns that the publication's column list leaves out.

    The server refuses UPDATE and DELETE if the replica identity contains such a column (publicationcmds.c,
    pub_collist_contains_invalid_column).
    """
    what, object = f"publication {publication} leaves out columns {', '.join(columns)} of {table.ref}", table.ref
    remedy = (
        f"ALTER PUBLICATION {publication} DROP TABLE {table.ref.sql}; "
        f"ALTER PUBLICATION {publication} ADD TABLE {table.ref.sql};"
    )
    if is_full:
        what += ", which REPLICA IDENTITY FULL does not permit: the server refuses its updates"
        return Finding.of(ReplicaIdentityInsufficient(what, object=object, remedy=remedy))
    if key := [name for name in columns if name in table.key]:
        what += f", of which {', '.join(key)} identify its rows: the server refuses its updates and deletes"
        return Finding.of(ReplicaIdentityInsufficient(what, object=object, remedy=remedy))
    return Finding("warning", what, str(object))


def _generated_columns_finding(
    publication: str, table: TableInfo, columns: Sequence[CatalogColumn], *, is_full: bool, publishable: bool
) -> Finding:
    """Return the finding about generated columns that are not published.

    Args:
        publication: Name of the publication, quoted if needed.
        table: The table.
        columns: Its generated columns that are not published.
        is_full: Whether the table has REPLICA IDENTITY FULL, or gets it from setup.
        publishable: Whether the server can publish stored generated columns.
    """
    what = f"generated columns {', '.join(c.name for c in columns)} of {table.ref} do not arrive in the stream"
    if is_full and publishable and any(c.generated == "s" for c in columns):
        what += ", which REPLICA IDENTITY FULL does not permit: the server refuses its updates"
        remedy = f"ALTER PUBLICATION {publication} SET (publish_generated_columns = stored);"
        return Finding.of(ReplicaIdentityInsufficient(what, object=table.ref, remedy=remedy))
    return Finding("warning", what, str(table.ref))


def _row_filter_finding(
    publication: Publication, table: TableInfo, published: PublishedTable, *, is_full: bool
) -> Finding:
    """Return the finding about a row filter.

    A snapshot copies the same rows. The replica identity must contain the columns of the filter, so that the server can
    tell whether an old row passes the filter.
    """
    name, object = quote_identifier(publication.name), table.ref
    what = f"publication {name} publishes only rows of {table.ref} WHERE {published.row_filter}"
    full = " ".join(s.sql for s in replica_identity_statements([table], ReplicaIdentityPolicy.FULL))
    # The server then refuses UPDATE and DELETE of the table (publicationcmds.c, pub_rf_contains_invalid_column).
    outside = [] if is_full else [c for c in published.filter_columns if c not in table.key]
    if outside:
        return Finding.of(
            ReplicaIdentityInsufficient(
                f"{what}, and {', '.join(outside)} is not part of its replica identity: the server refuses its "
                "updates and deletes",
                object=object,
                remedy=full,
            )
        )
    if is_full:
        return Finding("ok", what, str(object))
    # An update that moves a row into the filter is sent as an insert, without unchanged TOAST values.
    return Finding(
        "warning",
        f"{what}; a row that an update of {', '.join(published.filter_columns) or 'its key'} moves into it arrives "
        f"without its unchanged TOAST values, which stops the capture: {full} has them sent",
        str(object),
    )


def _not_owned(tables: Sequence[TableInfo]) -> list[TableInfo]:
    return [t for t in tables if not t.owned]


def _publication_problem(publication: Publication, what: str, remedy: str, tables: Iterable[TableInfo] = ()) -> Finding:
    object, refs = f"publication {publication.name}", [table.ref for table in tables]
    error: SourceError = PublicationLacksTable(what, object=object, remedy=remedy, tables=refs)
    return Finding.of(error)
