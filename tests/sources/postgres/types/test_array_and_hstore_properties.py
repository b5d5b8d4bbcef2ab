"""Array and hstore text: the columnar readers against the plain parser, and both against what was written."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbmazz_core.connectors.sources.postgres.types.read import BadText, read_texts
from dbmazz_core.model.datatypes import DataType, Kind
from dbmazz_core.model.values import carried_value, python_value
from tests.support.examples import examples

TEXT = DataType(Kind.STRING)
HSTORE = DataType(Kind.MAP)

words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
#: Texts of the signs that mean something, and of some that do not.
signs = st.text(st.sampled_from(list('{}",\\;: =>NULLä€[]-1')), max_size=12)
elements = st.none() | words | signs | st.sampled_from(["NULL", "null", "", " ", "\\", '"', "{}", "1"])


def arrays(depth: int) -> st.SearchStrategy[list[Any]]:
    """Nested lists without empty ones but for the array itself: PostgreSQL has no others."""
    inner: st.SearchStrategy[Any] = elements
    for _ in range(depth - 1):
        inner = st.lists(inner, min_size=1, max_size=3)
    return st.lists(inner, max_size=4)


def array_text(value: Any, delimiter: str) -> str:
    """As `array_out` writes it (arrayfuncs.c): quoted if empty, NULL, or with a sign or white space in it."""
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return "{" + delimiter.join(array_text(one, delimiter) for one in value) + "}"
    special = not value or value.upper() == "NULL" or any(c in '"\\{}' + delimiter or c in " \t\n\r\v\f" for c in value)
    return quoted(value) if special else value


def hstore_text(pairs: dict[str, str | None]) -> str:
    """As `hstore_out` writes it."""
    return ", ".join(f"{quoted(k)}=>{'NULL' if v is None else quoted(v)}" for k, v in pairs.items())


def quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def series(texts: list[str | None]) -> pl.Series:
    return pl.Series([None if text is None else text.encode() for text in texts], dtype=pl.Binary)


@examples(100)
@given(st.integers(1, 3).flatmap(lambda d: st.tuples(st.just(d), st.lists(st.none() | arrays(d), max_size=6))),
       st.sampled_from(",;:"))  # fmt: skip
def test_arrays_are_read_as_they_were_written(written: tuple[int, list[Any]], delimiter: str) -> None:
    depth, values = written
    type = DataType.list_of(TEXT, depth=depth, delimiter=delimiter)
    texts = [None if value is None else array_text(value, delimiter) for value in values]
    read = read_texts(series(texts), type)
    assert read.dtype == type.carrier
    assert read.to_list() == values
    assert [text if text is None else python_value(text, type) for text in texts] == values


@examples(100)
@given(st.lists(st.none() | st.dictionaries(words | signs, elements, max_size=4), max_size=6))
def test_hstores_are_read_as_they_were_written(values: list[dict[str, str | None] | None]) -> None:
    texts = [None if value is None else hstore_text(value) for value in values]
    read = read_texts(series(texts), HSTORE)
    assert read.dtype == HSTORE.carrier
    assert [carried_value(value, HSTORE) for value in read.to_list()] == values
    assert [text if text is None else python_value(text, HSTORE) for text in texts] == values


@examples(60)
@given(st.lists(st.none() | st.lists(st.none() | st.dictionaries(words, elements, max_size=3), max_size=3), max_size=4))
def test_arrays_of_hstores_are_read_as_they_were_written(values: list[Any]) -> None:
    type = DataType.list_of(HSTORE)
    texts = [
        None if value is None else array_text([None if one is None else hstore_text(one) for one in value], ",")
        for value in values
    ]
    assert [carried_value(value, type) for value in read_texts(series(texts), type).to_list()] == values
    assert [text if text is None else python_value(text, type) for text in texts] == values


def damaged(texts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Texts with some characters taken out, put in, or all of them random."""

    @st.composite
    def damage(draw: st.DrawFn) -> str:
        text = draw(texts)
        for _ in range(draw(st.integers(1, 3))):
            place = draw(st.integers(0, len(text)))
            text = text[:place] + draw(signs.map(lambda s: s[:2])) + text[place + draw(st.integers(0, 2)) :]
        return text

    return damage() | signs


def agree(texts: list[str], type: DataType) -> None:
    """Both readers take the same texts, for the same values; of several the first that is wrong is named."""
    plain = [python_value(text, type) for text in texts]
    wrong = [place for place, value in enumerate(plain) if isinstance(value, str)]
    if wrong:
        with pytest.raises(BadText) as error:
            read_texts(series(list(texts)), type)
        # Which of several is named depends on what is looked at first.
        assert error.value.place in wrong
    else:
        assert [carried_value(value, type) for value in read_texts(series(list(texts)), type).to_list()] == plain


@examples(200)
@given(st.integers(1, 2), st.data())
def test_damaged_arrays_are_refused_by_both_or_read_alike(depth: int, data: st.DataObject) -> None:
    written = arrays(depth).map(lambda value: array_text(value, ","))
    texts = data.draw(st.lists(damaged(written), min_size=1, max_size=3))
    agree(texts, DataType.list_of(TEXT, depth=depth))


@examples(200)
@given(st.lists(damaged(st.dictionaries(words | signs, elements, max_size=3).map(hstore_text)), min_size=1, max_size=3))
def test_damaged_hstores_are_refused_by_both_or_read_alike(texts: list[str]) -> None:
    agree(texts, HSTORE)


INTEGERS = DataType.list_of(DataType(Kind.INT32))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("{}", []),
        ("{1,NULL,-3}", [1, None, -3]),
        ("[2:4]={1,2,3}", [1, 2, 3]),
        ("[-1:0]={1,2}", [1, 2]),
    ],
)
def test_lower_bounds_are_dropped(text: str, values: list[int | None]) -> None:
    assert read_texts(series([None, text, text]), INTEGERS).to_list() == [None, values, values]
    assert python_value(text, INTEGERS) == values


@pytest.mark.parametrize(
    "text",
    ["", "{", "}", "1", "{1", "1}", "{1,}", "{,1}", "{,}", "{1}}", "{{1}", "{{1}}", "{{}}", "{1}{2}", '{"1}', '{"1"2}',
     "{1 2}", "{x}", "{null}", "{1.5}", "[1:2]", "[1:2]{1,2}", "[1:x]={1}", "{1}x", "x{1}", '{1"}'],
)  # fmt: skip
def test_what_is_no_array_of_integers_is_refused_and_named(text: str) -> None:
    with pytest.raises(BadText) as error:
        read_texts(series(["{1}", None, "{}", text, "{2}"]), INTEGERS)
    assert error.value.place == 3
    assert python_value(text, INTEGERS) == text


def test_other_dimensions_do_not_fit() -> None:
    matrix = DataType.list_of(DataType(Kind.INT32), depth=2)
    assert read_texts(series(["{{1,2},{3,NULL}}", "{}", None]), matrix).to_list() == [[[1, 2], [3, None]], [], None]
    for text in ("{1,2}", "{{{1}}}"):
        with pytest.raises(BadText):
            read_texts(series([text]), matrix)
        assert python_value(text, matrix) == text


def test_bytes_that_are_not_utf8_are_refused_and_named() -> None:
    for type, good, bad in ((DataType.list_of(TEXT), b"{a}", b"{a,\xff}"), (HSTORE, b'"a"=>"b"', b'"a"=>"\xff"')):
        with pytest.raises(BadText) as error:
            read_texts(pl.Series([good, None, good, bad, good]), type)
        assert error.value.place == 3


def test_elements_of_every_kind() -> None:
    texts = {
        Kind.BOOLEAN: ("{t,f}", [True, False]),
        Kind.FLOAT64: ("{NaN,-0,Infinity}", [pytest.approx(float("nan"), nan_ok=True), -0.0, float("inf")]),
        Kind.UINT32: ("{4294967295}", [4294967295]),
        Kind.BYTES: (r'{"\\x00ff",NULL,"\\x"}', [b"\x00\xff", None, b""]),
        Kind.DATE: ('{infinity,"0044-03-15 BC"}', ["infinity", "0044-03-15 BC"]),
    }
    for kind, (text, values) in texts.items():
        read = read_texts(series([text]), DataType.list_of(DataType(kind)))
        assert read.to_list() == [values]
