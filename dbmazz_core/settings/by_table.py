"""Settings that differ by table or column: `MODE`, `ON_BAD_VALUE`, `SCHEMA_CHANGES` and `COLUMNS_*`.

These settings share one grammar, a comma-separated list of rules. A rule without a table applies to all tables, a rule
with `schema.*` to the tables of a schema, a rule with `schema.table` to that table. If several rules apply, the most
specific one decides:

    MODE=soft_delete, public.audit=changelog, staging.*=mirror
    SCHEMA_CHANGES=apply, drop_column=ignore, public.orders:change_type=stop
    COLUMNS_EXCLUDE=public.users.password
    COLUMNS_MASK=public.users.email=hash, public.users.phone=truncate:3, public.users.note=null
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

from dbmazz_core.errors import ConfigError
from dbmazz_core.model.policies import Mask, SchemaAction, SchemaChangeKind
from dbmazz_core.settings.tables import PART, TablePattern, unquote
from dbmazz_core.table_ref import ColumnRef, TableRef, quote_identifier

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class ByTable(Generic[V]):
    """A value for all tables, with exceptions.

    >>> from dbmazz_core.model.policies import Mode
    >>> mode = parse_by_table("MODE", "mirror, public.audit=changelog", Mode)
    >>> str(mode), mode.of(TableRef("public", "audit"))
    ('mirror, public.audit=changelog', <Mode.CHANGELOG: 'changelog'>)

    Attributes:
        default: Value of the tables that no exception matches.
        exceptions: Values by table or schema.
    """

    default: V
    exceptions: tuple[tuple[TablePattern, V], ...] = ()

    def of(self, table: TableRef) -> V:
        """Return the value of a table: its own, else that of its schema, else the default."""
        found = [(pattern.name is not None, value) for pattern, value in self.exceptions if pattern.matches(table)]
        return max(found, key=lambda item: item[0])[1] if found else self.default

    def __str__(self) -> str:
        return ", ".join([str(self.default), *(f"{pattern}={value}" for pattern, value in self.exceptions)])


@dataclass(frozen=True, slots=True)
class SchemaPolicy:
    """The action for each kind of schema change, by table.

    >>> policy = parse_schema_policy("SCHEMA_CHANGES", "apply, drop_column=ignore, public.t:drop_column=stop")
    >>> policy.of(TableRef("public", "t"), SchemaChangeKind.DROP_COLUMN)
    <SchemaAction.STOP: 'stop'>

    Attributes:
        rules: Table or schema, kind and action. None as a table or kind means all of them.
    """

    rules: tuple[tuple[TablePattern | None, SchemaChangeKind | None, SchemaAction], ...] = ()

    def of(self, table: TableRef, kind: SchemaChangeKind) -> SchemaAction:
        """Return the action for a kind of schema change of a table.

        A rule for the table wins over a rule for its schema, and that over a rule for all tables. At the same level, a
        rule with the kind wins over a rule without one.
        """
        best, action = (-1, False), SchemaAction.APPLY
        for pattern, only, chosen in self.rules:
            if (pattern is None or pattern.matches(table)) and only in (None, kind):
                rank = (0 if pattern is None else 1 if pattern.name is None else 2, only is not None)
                if rank >= best:
                    best, action = rank, chosen
        return action

    def __str__(self) -> str:
        texts = []
        for pattern, kind, action in self.rules:
            left = ":".join(str(part) for part in (pattern, kind) if part is not None)
            texts.append(f"{left}={action}" if left else str(action))
        general = [] if texts and "=" not in texts[0] else ["apply"]
        return ", ".join([*general, *texts])


@dataclass(frozen=True, slots=True)
class ColumnNames:
    """A list of columns. `str` returns the text of the setting.

    >>> parse_column_names("COLUMNS_EXCLUDE", "users.password, users.ssn").of(TableRef("public", "users")) == {
    ...     "password", "ssn"}
    True
    """

    columns: tuple[ColumnRef, ...] = ()

    def of(self, table: TableRef) -> frozenset[str]:
        """Return the names of the columns of a table that are in the list."""
        return frozenset(column.name for column in self.columns if column.table == table)

    def __str__(self) -> str:
        return ", ".join(map(str, self.columns))


@dataclass(frozen=True, slots=True)
class ColumnMasks:
    """Masks by column. `str` returns the text of the setting.

    >>> str(parse_column_masks("COLUMNS_MASK", "users.email=hash").of(TableRef("public", "users"))["email"])
    'hash'
    """

    masks: Mapping[ColumnRef, Mask] = field(default_factory=dict)

    def of(self, table: TableRef) -> dict[str, Mask]:
        """Return the masks of a table by column name."""
        return {column.name: mask for column, mask in self.masks.items() if column.table == table}

    def __str__(self) -> str:
        return ", ".join(f"{column}={mask}" for column, mask in self.masks.items())


E = TypeVar("E", bound=StrEnum)

_NAME = rf"(?:{PART})(?:\.(?:{PART}))*"
#: `name`, `name=value` or `name:kind=value`; names may be quoted.
_RULE = re.compile(rf"\s*({_NAME})(?::(\w+))?\s*(?:=\s*([\w:]+)\s*)?(?:,|$)")


def parse_by_table(variable: str, text: str, values: type[E]) -> ByTable[E]:
    """Parse rules such as `mirror, public.audit=changelog`. The first member of `values` is the default.

    Raises:
        ConfigError: The text is malformed.
    """
    default, exceptions = next(iter(values)), []
    for name, kind, value in _rules(variable, text):
        if kind is not None:
            raise _malformed(variable, text, f"{name}:{kind} is not a table name")
        if value is None:
            default = _one_of(variable, name, values)
        else:
            exceptions.append((_pattern(variable, text, name), _one_of(variable, value, values)))
    return ByTable(default, tuple(exceptions))


def parse_schema_policy(variable: str, text: str) -> SchemaPolicy:
    """Parse rules such as `apply, drop_column=ignore, public.orders:change_type=stop, sales.*=stop`.

    Raises:
        ConfigError: The text is malformed.
    """
    rules: list[tuple[TablePattern | None, SchemaChangeKind | None, SchemaAction]] = []
    for name, kind, value in _rules(variable, text):
        if value is None and kind is None:
            rules.append((None, None, _one_of(variable, name, SchemaAction)))
        elif value is None:
            raise _malformed(variable, text, f"{name}:{kind} has no action")
        elif kind is not None:
            pattern = _pattern(variable, text, name)
            rules.append((pattern, _one_of(variable, kind, SchemaChangeKind), _one_of(variable, value, SchemaAction)))
        elif name in list(SchemaChangeKind):
            rules.append((None, SchemaChangeKind(name), _one_of(variable, value, SchemaAction)))
        else:
            rules.append((_pattern(variable, text, name), None, _one_of(variable, value, SchemaAction)))
    # APPLY is the default: a first rule that says so is left out.
    return SchemaPolicy(tuple(rules[1:] if rules[0] == (None, None, SchemaAction.APPLY) else rules))


def parse_column_names(variable: str, text: str) -> ColumnNames:
    """Parse a list such as `public.users.password, public.users.ssn`.

    Raises:
        ConfigError: The text is malformed.
    """
    columns = []
    for name, kind, value in _rules(variable, text):
        if kind is not None or value is not None:
            raise _malformed(variable, text, f"{name} is not followed by a comma")
        columns.append(_column(variable, text, name))
    return ColumnNames(tuple(dict.fromkeys(columns)))


def parse_column_masks(variable: str, text: str) -> ColumnMasks:
    """Parse rules such as `public.users.email=hash, public.users.phone=truncate:3`.

    Raises:
        ConfigError: The text is malformed.
    """
    masks: dict[ColumnRef, Mask] = {}
    for name, kind, value in _rules(variable, text):
        word, _, length = (value or "").partition(":")
        plain = word in ("hash", "null") and not length
        if kind is not None or not (plain or (word == "truncate" and length.isdecimal())):
            raise _malformed(variable, text, f"{name} must be followed by =hash, =null or =truncate:<characters>")
        masks[_column(variable, text, name)] = Mask(word, int(length or 0))
    return ColumnMasks(masks)


def _rules(variable: str, text: str) -> list[tuple[str, str | None, str | None]]:
    rules: list[tuple[str, str | None, str | None]] = []
    position, stripped = 0, text.strip()
    while position < len(stripped):
        match = _RULE.match(stripped, position)
        if match is None:
            raise _malformed(variable, text, f"cannot read {stripped[position : position + 40]!r}")
        rules.append((match[1], match[2], match[3]))
        position = match.end()
    if not rules or stripped.endswith(","):
        raise _malformed(variable, text, "a rule is missing")
    return rules


def _parts(name: str) -> list[str]:
    return [match[0] for match in re.finditer(PART, name)]


def _pattern(variable: str, text: str, name: str) -> TablePattern:
    parts = _parts(name)
    parts = parts if len(parts) > 1 else ["public", *parts]
    if len(parts) != 2 or parts[0] == "*":
        raise _malformed(variable, text, f"{name} is not a table name")
    return TablePattern(unquote(parts[0]), None if parts[1] == "*" else unquote(parts[1]))


def _column(variable: str, text: str, name: str) -> ColumnRef:
    parts = _parts(name)
    parts = parts if len(parts) > 2 else ["public", *parts]
    if len(parts) != 3 or "*" in parts:
        raise _malformed(variable, text, f"{name} is not a column name: write table.column or schema.table.column")
    schema, table, column = map(unquote, parts)
    return ColumnRef(TableRef(schema, table), column)


def _one_of(variable: str, word: str, values: type[E]) -> E:
    try:
        return values(word.lower())
    except ValueError:
        expected = ", ".join(values)
        raise ConfigError(
            f"{variable}: {word!r} is not one of {expected}",
            object=variable,
            remedy=f"use one of {expected}, alone or as schema.table=...",
        ) from None


def _malformed(variable: str, text: str, why: str) -> ConfigError:
    quoted = quote_identifier("Order Items")
    return ConfigError(
        f"{variable} is malformed: {why} (in {text!r})",
        object=variable,
        remedy=f"give comma-separated rules; names with capitals, blanks or dots are quoted: public.{quoted}",
    )
