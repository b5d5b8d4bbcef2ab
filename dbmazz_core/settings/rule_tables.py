"""Find rules of `MODE`, `ON_BAD_VALUE`, `ON_TABLE_ERROR` and `SCHEMA_CHANGES` for tables that are not captured."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from dbmazz_core.errors import ConfigError
from dbmazz_core.settings.config import TableConfig
from dbmazz_core.settings.suggestions import suggestion
from dbmazz_core.settings.tables import TablePattern
from dbmazz_core.table_ref import TableRef


def unknown_tables(
    config: TableConfig, patterns: Sequence[TablePattern], tables: Collection[TableRef]
) -> Iterator[ConfigError]:
    """Yield an error for each rule that applies to no table. A rule with a typo would not protect its table.

    Args:
        config: The rules.
        patterns: The setting `TABLES`. A rule for `schema.*` is correct if `TABLES` has the same pattern.
        tables: The captured tables, and the tables that the destination holds: a rule for a table that was dropped does
            not stop the capture.
    """
    named: dict[str, Iterable[TablePattern | None]] = {
        "MODE": [pattern for pattern, _ in config.mode.exceptions],
        "ON_BAD_VALUE": [pattern for pattern, _ in config.on_bad_value.exceptions],
        "ON_TABLE_ERROR": [pattern for pattern, _ in config.on_error.exceptions],
        "SCHEMA_CHANGES": [pattern for pattern, _, _ in config.schema_changes.rules],
    }
    names = sorted(map(str, tables))
    schemas = [str(TablePattern(schema, None)) for schema in sorted({table.schema for table in tables})]
    for variable, rules in named.items():
        for rule in rules:
            if rule is None or rule in patterns or any(map(rule.matches, tables)):
                continue
            what, known = ("is not captured", names) if rule.name is not None else ("has no captured table", schemas)
            yield ConfigError(
                f"{variable} names {rule}, which {what}{suggestion(str(rule), known)}",
                object=variable,
                remedy=f"correct {variable}, or take the rule out of it",
            )
