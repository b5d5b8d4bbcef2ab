"""Which columns a stream can have in binary form."""

from __future__ import annotations

from dbmazz_core.connectors.sources.postgres.types.binary import Decoder, decoder_of, read_texts
from dbmazz_core.connectors.sources.postgres.types.binary_arrays import array_decoder
from dbmazz_core.connectors.sources.postgres.types.binary_intervals import read_intervals
from dbmazz_core.connectors.sources.postgres.types.binary_numeric_texts import read_numeric_texts
from dbmazz_core.connectors.sources.postgres.types.builtin import NUMERIC_OID
from dbmazz_core.connectors.sources.postgres.types.resolve import BaseType
from dbmazz_core.model.datatypes import DataType, Kind
from dbmazz_core.model.masks import Masker
from dbmazz_core.model.schema import ColumnDef

#: By OID: the kind of core type, and the decoder of types that a snapshot reads as text.
_MORE: dict[int, tuple[Kind, Decoder]] = {
    1186: (Kind.INTERVAL, read_intervals),
    NUMERIC_OID: (Kind.STRING, read_numeric_texts),
}
#: Sizes of binary values that all have one.
_BYTES = {
    Kind.BOOLEAN: 1,
    Kind.INT16: 2,
    Kind.INT32: 4,
    Kind.INT64: 8,
    Kind.UINT32: 4,
    Kind.FLOAT32: 4,
    Kind.FLOAT64: 8,
    Kind.DATE: 4,
    Kind.TIME: 8,
    Kind.TIMESTAMP: 8,
    Kind.TIMESTAMPTZ: 8,
    Kind.UUID: 16,
    Kind.INTERVAL: 16,
}


class NoBinaryForm(Exception):
    """A column must come as text. The message is a sentence without its subject, the column."""


def stream_decoder(column: ColumnDef, base: BaseType, masker: Masker | None) -> Decoder | None:
    """Return the function that reads a captured column of a stream in binary form.

    >>> from dbmazz_core.model.datatypes import DataType, Kind
    >>> stream_decoder(ColumnDef("at", DataType(Kind.DATE), "date"), BaseType(1082), None) is not None
    True
    >>> stream_decoder(ColumnDef("address", DataType(Kind.STRING), "inet"), BaseType(869), None)
    Traceback (most recent call last):
        ...
    dbmazz_core.connectors.sources.postgres.types.binary_columns.NoBinaryForm: is of type inet

    Args:
        column: The captured column.
        base: What decides its binary form.
        masker: Its mask; None: it has none.

    Returns:
        The function; None for a column that its mask makes NULL, whose values are not read.

    Raises:
        NoBinaryForm: The column's values are exact only as text.
    """
    if masker is not None:
        if masker.mask.kind == "null":
            return None
        raise NoBinaryForm(f"is masked by {masker.mask.kind}")
    decoder = _array(column.type, base) if column.type.kind is Kind.LIST else _scalar(column.type, base)
    if decoder is None:
        raise NoBinaryForm(f"is of type {column.source_type}")
    return decoder


def _array(type: DataType, base: BaseType) -> Decoder | None:
    element = type.element
    if element is None or base.element is None or element.is_nested:
        return None
    decoder = _scalar(element, base.element)
    return None if decoder is None else array_decoder(decoder, _BYTES.get(element.kind), element.natural)


def _scalar(type: DataType, base: BaseType) -> Decoder | None:
    if base.sends_text:
        return read_texts if type.kind is Kind.STRING else None
    kind, decoder = _MORE.get(base.oid, (None, None))
    if kind is type.kind:
        return decoder
    return decoder_of(base.oid, type, is_enum=base.is_enum)
