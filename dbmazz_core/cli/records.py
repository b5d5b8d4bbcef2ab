"""Change records as JSON and as lines of text, for `dbmazz peek`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from dbmazz_core.model.records import (
    UNCHANGED,
    Begin,
    CdcRecord,
    Columns,
    ColumnValue,
    Commit,
    Delete,
    Heartbeat,
    Insert,
    Message,
    SchemaChange,
    SourcePosition,
    Truncate,
    Update,
)
from dbmazz_core.model.schema import TableSchema


def record_to_dict(record: CdcRecord) -> dict[str, Any]:
    """Return a record as a dictionary of JSON types. The key `type` names the record; the other keys depend on it.

    An unchanged TOAST value, which PostgreSQL did not send, is not in `columns`; its name is in `unchanged`.
    """
    match record:
        case Insert(table, columns, position):
            return {"type": "insert", "table": str(table), **_images(columns, None), "position": _position(position)}
        case Update(table, old, new, position):
            return {"type": "update", "table": str(table), **_images(new, old), "position": _position(position)}
        case Delete(table, columns, position):
            return {"type": "delete", "table": str(table), **_images(None, columns), "position": _position(position)}
        case Truncate(tables, cascade, restart_identity, position):
            return {
                "type": "truncate",
                "tables": [str(table) for table in tables],
                "cascade": cascade,
                "restart_identity": restart_identity,
                "position": _position(position),
            }
        case SchemaChange(table, before, after, position):
            return {
                "type": "schema_change",
                "table": str(table),
                "columns": _types(after),
                "old": _types(before) if before else None,
                "position": _position(position),
            }
        case Begin(position):
            return {"type": "begin", "position": _position(position)}
        case Commit(position, end_lsn):
            return {"type": "commit", "end_lsn": str(end_lsn), "position": _position(position)}
        case Message(prefix, content, transactional, position):
            return {
                "type": "message",
                "prefix": prefix,
                "content": _value(content),
                "transactional": transactional,
                "position": _position(position),
            }
        case Heartbeat(wal_end):
            return {"type": "heartbeat", "wal_end": str(wal_end)}


def record_line(record: CdcRecord) -> str:
    """Return a record as one line: position, type, table, values."""
    shown = record_to_dict(record)
    position = shown.pop("position", None)
    place = f"{position['commit_lsn']}:{position['ordinal']}" if position else ""
    parts = [f"{place:<16}", f"{shown.pop('type'):<13}", shown.pop("table", "")]
    parts += [_named(name, value) for name, value in shown.items() if value not in (None, [])]
    return " ".join(part for part in parts if part).rstrip()


def _named(name: str, value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if name == "columns" else f"{name}={text}"


def _images(new: Columns | None, old: Columns | None) -> dict[str, Any]:
    images: dict[str, Any] = {"columns": _values(new), "old": _values(old)}
    unchanged = [name for name, value in (new or {}).items() if value is UNCHANGED]
    return images | ({"unchanged": unchanged} if unchanged else {})


def _values(columns: Columns | None) -> dict[str, Any] | None:
    if columns is None:
        return None
    return {name: _value(value) for name, value in columns.items() if value is not UNCHANGED}


def _value(value: ColumnValue) -> Any:
    """Return a value as a JSON type if that is exact, else as text; bytes as PostgreSQL prints them, `\\x00ff`."""
    match value:
        case None | bool() | int() | str():
            return value
        case float() if math.isfinite(value):
            return value
        case bytes():
            return f"\\x{value.hex()}"
        case list():
            return [_value(one) for one in value]
        case dict():
            return dict(value)
        case _:
            return str(value)


def _position(position: SourcePosition) -> Mapping[str, Any]:
    return {
        "commit_lsn": str(position.commit_lsn),
        "ordinal": position.ordinal,
        "xid": position.xid,
        "commit_time": position.commit_time.isoformat() if position.commit_time else None,
    }


def _types(schema: TableSchema) -> dict[str, str]:
    return {column.name: column.source_type for column in schema.columns}
