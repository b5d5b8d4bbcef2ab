"""The rules for columns: which columns of a table are captured, and how they are masked.

The snapshot does not read excluded columns, and the stream's decoder skips them. Masks are applied when values are
decoded. A rule that does not fit its table is an error: if a rule with a typo were ignored, its column would arrive
unmasked.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dbmazz_core.connectors.sources.postgres.catalog.description import TableInfo
from dbmazz_core.connectors.sources.postgres.catalog.redaction import RedactedColumn
from dbmazz_core.errors import ConfigError
from dbmazz_core.model.masks import Masker
from dbmazz_core.model.schema import ColumnChoice, ColumnDef, TableSchema
from dbmazz_core.settings.config import SourceConfig
from dbmazz_core.settings.suggestions import suggestion
from dbmazz_core.table_ref import ColumnRef, TableRef, quote_identifier


@dataclass(frozen=True, slots=True)
class Projection:
    """The captured columns of a relation's tuples.

    Attributes:
        width: Number of columns in a tuple.
        numbers: Places of the captured columns in a tuple, ascending.
        maskers: Mask of each captured column; None: not masked.
    """

    width: int
    numbers: tuple[int, ...]
    maskers: tuple[Masker | None, ...]

    @classmethod
    def whole(cls, width: int) -> Projection:
        """Return the projection that captures all columns without masks."""
        return cls(width, tuple(range(width)), (None,) * width)


class ColumnRules:
    """The settings for columns: which are captured, and how they are masked.

    >>> from dbmazz_core.settings.config import Settings
    >>> settings = Settings.from_env({"SOURCE_URL": "postgres://localhost/shop", "TABLES": "users",
    ...     "COLUMNS_EXCLUDE": "users.password", "COLUMNS_MASK": "users.email=truncate:3"})
    >>> ColumnRules(settings.source).choice(TableRef("public", "users")).keeps("password")
    False
    """

    def __init__(self, config: SourceConfig) -> None:
        self._config = config
        self._named: Mapping[str, Collection[ColumnRef]] = {
            "COLUMNS_INCLUDE": config.include.columns,
            "COLUMNS_EXCLUDE": config.exclude.columns,
            "COLUMNS_MASK": config.masks.masks,
            "COLUMNS_AS_TEXT": config.as_text.columns,
        }

    def choice(self, table: TableRef) -> ColumnChoice:
        """Return the choice of a table's columns that are captured."""
        included, excluded = self._config.include.of(table), self._config.exclude.of(table)
        return ColumnChoice(tuple(sorted(included)) or None, tuple(sorted(excluded)))

    def maskers(self, table: TableRef) -> dict[str, Masker]:
        """Return the masks of a table's columns, by name of the column."""
        return {name: Masker(mask, self._config.mask_key) for name, mask in self._config.masks.of(table).items()}

    def redacted(self, table: TableRef, columns: Mapping[str, int]) -> tuple[RedactedColumn, ...]:
        """Return the redacted columns of a table.

        Args:
            table: The table's name in the rules.
            columns: Numbers of the table's columns, by name.
        """
        choice, maskers = self.choice(table), self.maskers(table)
        return tuple(
            RedactedColumn(name, number, str(maskers[name]) if choice.keeps(name) else None)
            for name, number in columns.items()
            if name in maskers or not choice.keeps(name)
        )

    def apply(self, schema: TableSchema, name_in_rules: TableRef | None = None) -> tuple[TableSchema, Projection]:
        """Return the schema of the captured columns, and their projection.

        Args:
            schema: The table with all columns.
            name_in_rules: The table's name in the rules, if it has another name now.
        """
        table = name_in_rules or schema.table
        choice, maskers = self.choice(table), self.maskers(table)
        numbers = tuple(number for number, name in enumerate(schema.names) if choice.keeps(name))
        columns = tuple(_masked(schema.columns[number], maskers) for number in numbers)
        kept = {column.name for column in columns}
        key = schema.key if kept.issuperset(schema.key) else ()
        projection = Projection(len(schema.columns), numbers, tuple(maskers.get(column.name) for column in columns))
        return TableSchema(schema.table, columns, key, choice), projection

    def problems(self, tables: Sequence[TableInfo], configured: Sequence[TableInfo]) -> Iterator[ConfigError]:
        """Yield errors for rules that do not fit the captured tables.

        Args:
            tables: The captured tables.
            configured: These, and the configured tables that are not captured now.

        Such a rule names a table or column that does not exist, excludes or masks a column of a key, excludes all
        columns of a table, or hashes without a secret.
        """
        by_ref = {table.ref: table for table in configured}
        for variable, columns in self._named.items():
            for column in columns:
                table = by_ref.get(column.table)
                if table is None:
                    yield _unknown(variable, f"{column}: {column.table} is not captured", column.table, by_ref)
                elif column.name not in (names := [c.name for c in table.columns]):
                    known = [ColumnRef(column.table, name) for name in names]
                    yield _unknown(variable, f"{column}, which does not exist", column, known)
        for table in tables:
            yield from self._key_problems(table.ref, table.key)
            if not table.columns:
                yield _problem(
                    "TABLES",
                    f"has {table.ref}, which has no columns that PostgreSQL sends",
                    "leave the table out of TABLES, or publish its generated columns: "
                    f"ALTER PUBLICATION {quote_identifier(self._config.publication_name)} "
                    "SET (publish_generated_columns = stored);",
                    table.ref,
                )
            elif not any(self.choice(table.ref).keeps(column.name) for column in table.columns):
                yield _problem(
                    "COLUMNS_EXCLUDE", f"leaves no column of {table.ref}", "leave the table out of TABLES", table.ref
                )
        if not self._config.mask_key and any(mask.kind == "hash" for mask in self._config.masks.masks.values()):
            yield ConfigError(
                "COLUMNS_MASK has hashes and MASK_KEY is not set: without a secret, anybody can find short texts "
                "by trying",
                object="MASK_KEY",
                remedy="set MASK_KEY in the environment to a long random text, such as the output of: "
                "openssl rand -hex 32",
            )

    def verify_recorded(self, recorded: TableSchema, names: Collection[str]) -> None:
        """Verify that a table was copied under the current rules.

        Args:
            recorded: Schema of the destination's table.
            names: The source's columns. Columns that were added since the copy follow the current rules.

        Raises:
            ConfigError: The table was copied under other rules.
        """
        table, now, before = recorded.table, self.choice(recorded.table), recorded.choice
        for name in recorded.names:
            if not now.keeps(name):
                raise _changed(ColumnRef(table, name), "was captured and is left out now")
        for name in names:
            if now.keeps(name) and not before.keeps(name):
                raise _changed(ColumnRef(table, name), "was left out and is captured now")
        maskers = self.maskers(table)
        for column in recorded.columns:
            masker = maskers.get(column.name)
            if (str(masker) if masker else "") != column.mask:
                was, is_now = _mask_state(column.mask), _mask_state(str(masker) if masker else "")
                is_now = "under another MASK_KEY" if was == is_now else is_now
                raise _changed(ColumnRef(table, column.name), f"{was} and is {is_now} now")

    def verify_described(
        self, table: TableRef, names: Sequence[str], key: Sequence[str], known: Collection[str] | None
    ) -> None:
        """Verify that a table as the stream describes it fits the rules.

        Args:
            table: The table's name in the rules.
            names: Names of the table's columns.
            key: Names of the columns by which the stream identifies rows; empty if rows come whole.
            known: The captured columns that the table had before the description; None: not known.

        Raises:
            ConfigError: A column of the rules may have been renamed, or a rule excludes or masks a column of the key.
        """
        gone = {*self._config.exclude.of(table), *self._config.masks.of(table)} - set(names)
        choice = self.choice(table)
        new = [name for name in names if choice.keeps(name) and known is not None and name not in known]
        if gone and new:
            # A column of the rules may be dropped, or added later. But a column that was renamed would arrive under its
            # new name, unmasked.
            columns = ", ".join(str(ColumnRef(table, name)) for name in sorted(gone))
            raise ConfigError(
                f"{columns}, which COLUMNS_MASK or COLUMNS_EXCLUDE names, is not among the columns of {table} in the "
                f"stream, and {', '.join(new)} is new: if it was renamed, its values would arrive as they are",
                object="COLUMNS_MASK",
                remedy="put the columns' current names into COLUMNS_MASK and COLUMNS_EXCLUDE, then re-snapshot the "
                f"table: dbmazz snapshot --tables '{table}'",
                tables=(table,),
            )
        for problem in self._key_problems(table, key):
            raise problem

    def _key_problems(self, table: TableRef, key: Sequence[str]) -> Iterator[ConfigError]:
        """Yield errors for rules that exclude a column of the key, or mask it by anything but a hash."""
        choice, maskers = self.choice(table), self._config.masks.of(table)
        for name in key:
            column = ColumnRef(table, name)
            if not choice.keeps(name):
                variable = "COLUMNS_EXCLUDE" if name in choice.exclude else "COLUMNS_INCLUDE"
                remedy = "take it out of" if name in choice.exclude else "add it to"
                yield _problem(
                    variable, f"leaves out {column}, which identifies the table's rows", f"{remedy} {variable}", table
                )
            elif (mask := maskers.get(name)) is not None and mask.kind != "hash":
                yield _problem(
                    "COLUMNS_MASK",
                    f"has {column}={mask}, but the column identifies the table's rows, and different values would "
                    "become equal",
                    f"hash it: COLUMNS_MASK={column}=hash",
                    table,
                )


def _masked(column: ColumnDef, maskers: Mapping[str, Masker]) -> ColumnDef:
    masker = maskers.get(column.name)
    if masker is None:
        return column
    return ColumnDef(column.name, masker.type(column.type), column.source_type, str(masker))


def _unknown(
    variable: str, what: str, wanted: ColumnRef | TableRef, known: Collection[ColumnRef] | Collection[TableRef]
) -> ConfigError:
    hint = suggestion(str(wanted), [*map(str, known)])
    return _problem(variable, f"names {what}{hint}", f"correct {variable}, or take the rule out of it")


def _problem(variable: str, what: str, remedy: str, table: TableRef | None = None) -> ConfigError:
    tables = () if table is None else (table,)
    return ConfigError(f"{variable} {what}", object=variable, remedy=remedy, tables=tables)


def _mask_state(mask: str) -> str:
    """Return the words for a mask in an error. The digits of a hash, which depend on MASK_KEY, are left out."""
    return f"masked ({mask.partition(':')[0] if mask.startswith('hash') else mask})" if mask else "not masked"


def _changed(column: ColumnRef, change: str) -> ConfigError:
    return ConfigError(
        f"the settings for columns have changed since {column.table} was copied: {column} {change}",
        object=str(column),
        remedy=f"re-snapshot the table: dbmazz snapshot --tables '{column.table}'; or undo the change",
    )
