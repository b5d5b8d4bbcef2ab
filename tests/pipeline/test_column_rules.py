"""Column choice: what is left out or masked is nowhere behind the source, from the snapshot and from the stream."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import pytest

from dbmazz_core.cli.records import record_line, record_to_dict
from dbmazz_core.connectors.sources.postgres.source import PostgresSource
from dbmazz_core.errors import ConfigError
from dbmazz_core.model.records import Delete, Heartbeat, Insert, Update
from dbmazz_core.model.unchanged import UNCHANGED
from dbmazz_core.settings.by_table import parse_column_masks, parse_column_names
from tests.support.lab import BOTH, Lab, toast

KEY = "a key of tests"
USERS = (
    "CREATE TABLE users (id int PRIMARY KEY, password text NOT NULL, email text, phone varchar(20), note text,"
    " born date, balance numeric(9,2)); ALTER TABLE users REPLICA IDENTITY {identity};"
    "INSERT INTO users VALUES (1, 'pw-one', 'ann@example.com', '+43 1 23', 'likes tea', '1990-01-02', 1.50),"
    " (2, 'pw-two', NULL, NULL, NULL, NULL, NULL), (3, 'pw-three', '', '', '', 'infinity', 0)"
)
MASKS = "users.email=hash, users.phone=truncate:3, users.note=null, users.born=hash, users.balance=truncate:2"


def hashed(text: str, key: str = KEY) -> str:
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()


def chosen(lab: Lab, *, key: str = KEY, **settings: str) -> Lab:
    """The lab with COLUMNS_ settings as text: `include`, `exclude`, `masks`."""
    source: dict[str, Any] = {
        name: (parse_column_masks if name == "masks" else parse_column_names)(name, text)
        for name, text in settings.items()
    }
    return lab.configured(source={**source, "mask_key": key})


def everything(lab: Lab) -> str:
    """All that the file holds, as text, and its bytes."""
    tables = lab.rows("SELECT table_schema, table_name FROM information_schema.tables")
    return repr([lab.rows(f'FROM "{schema}"."{table}"') for schema, table in tables])


@BOTH
def test_what_is_left_out_or_masked_is_not_in_the_destination(lab: Lab, identity: str) -> None:
    lab.execute(USERS.format(identity=identity))
    lab = chosen(lab, exclude="users.password", masks=MASKS)
    lab.capture()
    expected = [
        (1, hashed("ann@example.com"), "+43", None, hashed("1990-01-02"), "1."),
        (2, None, None, None, None, None),
        (3, hashed(""), "", None, hashed("infinity"), "0."),
    ]
    assert lab.rows("FROM public.users ORDER BY id") == expected
    lab.transactions(
        "UPDATE users SET id = id + 10",
        "INSERT INTO users SELECT id - 10, password, email, phone, note, born, balance FROM users",
        "UPDATE users SET email = 'bob@example.com' WHERE id = 2",
        "DELETE FROM users WHERE id > 10",
    )
    lab.capture()
    expected[1] = (2, hashed("bob@example.com"), None, None, None, None)
    assert lab.rows("FROM public.users ORDER BY id") == expected
    assert lab.rows("SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'users'") == [
        ("id", "INTEGER"), ("email", "VARCHAR"), ("phone", "VARCHAR"), ("note", "VARCHAR"), ("born", "VARCHAR"),
        ("balance", "VARCHAR"),
    ]  # fmt: skip
    for secret in ("pw-", "@example.com", "likes tea", "1990-01-02", "+43 1 23", KEY):
        assert secret not in everything(lab)
        assert secret.encode() not in lab.path.read_bytes()


def test_hashes_are_hmac_sha_256(lab: Lab) -> None:
    lab.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v text);"
        "INSERT INTO t SELECT i, repeat('ä', i) FROM generate_series(0, 200) i"
    )
    for key in (KEY, "k" * 200, "Schlüssel"):
        lab = chosen(lab, masks="t.v=hash", key=key)
        lab.pipeline.snapshot()
        lab.execute("UPDATE t SET v = v WHERE id % 2 = 0")
        lab.capture()
        expected = [(number, hashed("ä" * number, key)) for number in range(201)]
        assert lab.rows("FROM public.t ORDER BY id") == expected


@BOTH
def test_an_include_list_and_a_hashed_key(lab: Lab, identity: str) -> None:
    """Equal keys have equal hashes, so updates and deletes find their rows; a swap of keys, too."""
    lab.execute(
        "CREATE TABLE t (a text, b numeric, n int, secret text, PRIMARY KEY (a, b));"
        f"ALTER TABLE t REPLICA IDENTITY {identity};"
        "INSERT INTO t SELECT 'k' || i, i, i, 'hush' FROM generate_series(1, 5) i"
    )
    lab = chosen(lab, include="t.a, t.b, t.n", masks="t.a=hash, t.b=hash")
    lab.capture()
    lab.transactions(
        "UPDATE t SET n = 10 WHERE a = 'k1'",
        "DELETE FROM t WHERE a = 'k2'",
        "UPDATE t SET a = 'moved' WHERE a = 'k3'",
        "UPDATE t SET a = 'x' WHERE a = 'k4'; UPDATE t SET a = 'k4', b = 4 WHERE a = 'k5'; "
        "UPDATE t SET a = 'k5', b = 5 WHERE a = 'x'",
    )
    lab.capture()
    source = lab.database.fetch("SELECT a, b::text, n FROM t")
    assert sorted(lab.rows("SELECT a, b, n FROM public.t")) == sorted((hashed(a), hashed(b), n) for a, b, n in source)
    assert "hush" not in everything(lab)


@BOTH
def test_an_unchanged_value_out_of_line_stays_what_it_was(lab: Lab, identity: str) -> None:
    lab.execute(
        "CREATE TABLE t (id int PRIMARY KEY, n int, a text, b text, c text, d text);"
        f"ALTER TABLE t REPLICA IDENTITY {identity};"
        f"INSERT INTO t SELECT i, i, v, v, v, v FROM generate_series(1, 3) i, {toast('x')} v(v)"
    )
    lab = chosen(lab, masks="t.a=hash, t.b=truncate:40, t.c=null", exclude="t.d")
    lab.capture()
    before = lab.rows("SELECT a, b, c FROM public.t ORDER BY id")
    assert len(before[0][0]) == 64
    lab.transactions("UPDATE t SET n = n + 1", "UPDATE t SET id = id + 10 WHERE id = 3")
    lab.capture()
    assert lab.rows("SELECT a, b, c FROM public.t ORDER BY id") == before
    assert lab.rows("SELECT id, n FROM public.t ORDER BY id") == [(1, 2), (2, 3), (13, 4)]


def test_a_table_without_a_key_is_a_multiset_of_what_is_left(lab: Lab) -> None:
    lab.execute(
        "CREATE TABLE bag (x int, secret text, who text); ALTER TABLE bag REPLICA IDENTITY FULL;"
        "INSERT INTO bag SELECT i % 2, 'secret' || i, 'who' || i % 3 FROM generate_series(1, 12) i"
    )
    lab = chosen(lab, exclude="bag.secret", masks="bag.who=truncate:3")
    lab.capture()
    lab.transactions(
        "DELETE FROM bag WHERE secret = 'secret4'", "UPDATE bag SET who = 'you' WHERE secret IN ('secret1', 'secret2')"
    )
    lab.capture()
    assert sorted(lab.rows("FROM public.bag")) == sorted(lab.database.fetch("SELECT x, left(who, 3) FROM bag"))


@BOTH
def test_records_and_peek_show_the_masks(lab: Lab, identity: str) -> None:
    lab.execute(USERS.format(identity=identity))
    lab = chosen(lab, exclude="users.password", masks=MASKS)
    lab.pipeline.setup()
    lab.transactions(
        "UPDATE users SET email = 'eve@example.com' WHERE id = 1",
        f"INSERT INTO users VALUES (4, 'pw', {toast('z')}, '+43 9', 'tea', '1990-01-02', 7)",
        "UPDATE users SET balance = 8 WHERE id = 4",
        "DELETE FROM users WHERE id = 1",
    )
    records = list(lab.pipeline.peek(10))
    with PostgresSource(lab.config) as source:
        source.start()
        direct = [r for r in source.records(until=source.reachable_lsn()) if not isinstance(r, Heartbeat)]
    assert repr(direct).startswith(repr(records)[:-1])
    shown = " ".join(
        [*map(repr, records), *map(record_line, records), *(json.dumps(record_to_dict(r)) for r in records)]
    )
    for secret in ("pw", "@example.com", "tea", "1990", "+43 9", KEY):
        assert secret not in shown
    changes = [record for record in records if isinstance(record, Insert | Update | Delete)]
    update, insert, unchanged, delete = changes
    assert isinstance(update, Update)
    assert update.new_columns["email"] == hashed("eve@example.com")
    assert (update.old_columns or {}).get("email") == (hashed("ann@example.com") if identity == "FULL" else None)
    assert isinstance(insert, Insert)
    assert insert.columns["phone"] == "+43"
    assert isinstance(unchanged, Update)
    assert unchanged.new_columns["email"] is UNCHANGED
    assert unchanged.new_columns["balance"] == "8."
    assert isinstance(delete, Delete)
    assert delete.columns["id"] == 1


@pytest.mark.parametrize(
    ("settings", "object", "words"),
    [
        ({"masks": "users.emial=hash"}, "COLUMNS_MASK", "public.users.emial.*did you mean public.users.email"),
        ({"exclude": "usres.password"}, "COLUMNS_EXCLUDE", "public.usres is not captured.*did you mean public.users"),
        ({"include": "users.id, users.Password"}, None, ""),  # folded to lower case, as in SQL
        ({"include": 'users.id, users."Password"'}, "COLUMNS_INCLUDE", 'public.users."Password"'),
        ({"as_text": "users.blance"}, "COLUMNS_AS_TEXT", "did you mean public.users.balance"),
        ({"exclude": "users.id"}, "COLUMNS_EXCLUDE", "leaves out public.users.id, which identifies"),
        ({"include": "users.email"}, "COLUMNS_INCLUDE", "leaves out public.users.id, which identifies"),
        ({"masks": "users.id=null"}, "COLUMNS_MASK", "public.users.id=null.*identifies"),
        ({"masks": "users.id=truncate:3"}, "COLUMNS_MASK", "public.users.id=truncate:3.*identifies"),
        ({"masks": "users.email=hash", "key": ""}, "MASK_KEY", "not set"),
        ({"exclude": "other.x"}, "COLUMNS_EXCLUDE", "leaves no column of public.other"),
    ],
)
def test_a_rule_that_does_not_fit_stops_everything_before_anything_is_changed(
    lab: Lab, settings: dict[str, str], object: str | None, words: str
) -> None:
    lab.execute(USERS.format(identity="DEFAULT") + "; CREATE TABLE other (x int)")
    lab = chosen(lab, **settings)
    if object is None:
        lab.pipeline.check().raise_first()
        return
    calls = (lambda: lab.pipeline.check().raise_first(), lab.pipeline.setup, lab.capture, lab.pipeline.snapshot)
    for call in calls:
        with pytest.raises(ConfigError, match=f"(?s){words}") as error:
            call()
        assert error.value.object == object
    assert not lab.path.exists()
    assert lab.database.fetch("SELECT FROM pg_replication_slots WHERE database = current_database()") == []
    assert lab.database.fetch("SELECT FROM pg_publication") == []


BEFORE = {"exclude": "users.password", "masks": "users.email=hash, users.phone=truncate:3"}


@pytest.mark.parametrize(
    ("after", "words"),
    [
        ({"masks": BEFORE["masks"]}, "users.password was left out and is captured now"),
        ({**BEFORE, "exclude": "users.password, users.note"}, "users.note was captured and is left out now"),
        ({**BEFORE, "include": "users.id, users.phone, users.email"}, "users.note was captured and is left out now"),
        ({"exclude": BEFORE["exclude"]}, r"users.email masked \(hash\) and is not masked now"),
        ({**BEFORE, "masks": "users.email=hash, users.phone=truncate:4"},
         r"users.phone masked \(truncate:3\) and is masked \(truncate:4\) now"),
        ({**BEFORE, "masks": BEFORE["masks"] + ", users.note=null"}, r"users.note not masked and is masked \(null\)"),
        ({**BEFORE, "key": "another"}, r"users.email masked \(hash\) and is under another MASK_KEY now"),
    ],
)  # fmt: skip
def test_another_choice_for_a_copied_table_asks_for_a_copy(lab: Lab, after: dict[str, str], words: str) -> None:
    lab.execute(USERS.format(identity="DEFAULT"))
    chosen(lab, **BEFORE).capture()
    lab.execute("UPDATE users SET note = 'new'")
    changed = chosen(lab, **after)
    with lab.nothing_changes("public.users"), pytest.raises(ConfigError, match=words) as error:
        changed.capture()
    changed.assert_found_by_check(error.value)
    assert "dbmazz snapshot --tables 'public.users'" in error.value.remedy
    changed.pipeline.snapshot([lab.ref("users")])
    changed.capture()
    # And what it was copied under goes on.
    lab.execute("UPDATE users SET note = 'newer'")
    changed.capture()


def test_a_renamed_column_does_not_come_unmasked(lab: Lab) -> None:
    lab.execute(USERS.format(identity="DEFAULT"))
    lab = chosen(lab, **BEFORE)
    lab.capture()
    lab.transactions(
        "UPDATE users SET phone = '+43 2'",
        "ALTER TABLE users RENAME email TO mail",
        "UPDATE users SET mail = 'joe@example.com'",
    )
    # The rule names a column that is gone ...
    with (
        lab.nothing_changes("public.users"),
        pytest.raises(ConfigError, match=r"public.users.email.*public.users.mail"),
    ):
        lab.capture()
    # ... a corrected one does not fit what the stream still tells of the time before ...
    corrected = chosen(lab, exclude="users.password", masks="users.mail=hash, users.phone=truncate:3")
    with lab.nothing_changes("public.users"), pytest.raises(ConfigError, match=r"users.email masked \(hash\)"):
        corrected.capture()
    # ... and a copy is right.
    corrected.pipeline.snapshot([lab.ref("users")])
    corrected.capture()
    assert "@example" not in everything(lab)
    assert set(lab.rows("SELECT mail FROM public.users")) == {(hashed("joe@example.com"),)}


@pytest.mark.parametrize("rule", [{"exclude": "users.email"}, {"masks": "users.email=hash"}])
def test_a_column_renamed_while_streaming_stops_the_window(lab: Lab, rule: dict[str, str]) -> None:
    """The catalog was looked at before the rename: only the stream tells."""
    lab.execute(USERS.format(identity="DEFAULT"))
    lab = chosen(lab, **rule)
    lab.capture()
    with PostgresSource(lab.config) as source:
        source.start_replication_from(lab.checkpoint)
        lab.transactions(
            "UPDATE users SET note = 'before'",
            "ALTER TABLE users RENAME email TO mail",
            "UPDATE users SET mail = 'joe@example.com'",
        )
        seen = []
        with pytest.raises(ConfigError, match=r"public.users.email, which .*, and mail is new"):
            seen.extend(map(repr, source.records(until=source.reachable_lsn())))
        assert "note" in repr(seen)
        assert "example.com" not in repr(seen).replace(hashed("x"), "")


def test_a_key_that_moves_to_a_masked_column_stops_the_window(lab: Lab) -> None:
    lab.execute(
        "CREATE TABLE t (id int PRIMARY KEY, code text NOT NULL UNIQUE, n int); INSERT INTO t VALUES (1, 'a', 1)"
    )
    lab = chosen(lab, masks="t.code=truncate:3")
    lab.capture()
    with PostgresSource(lab.config) as source:
        source.start_replication_from(lab.checkpoint)
        lab.transactions("ALTER TABLE t REPLICA IDENTITY USING INDEX t_code_key", "UPDATE t SET n = 2")
        with pytest.raises(ConfigError, match=r"t.code=truncate:3, but the column identifies"):
            list(source.records(until=source.reachable_lsn()))


def test_a_rule_for_a_column_that_is_added_later_waits_for_it(lab: Lab) -> None:
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (1, 1)")
    lab.capture()
    lab.transactions("UPDATE t SET n = 2", "ALTER TABLE t ADD COLUMN secret text", "UPDATE t SET secret = 'secret'")
    excluding = chosen(lab, exclude="t.secret")
    excluding.capture()
    assert lab.rows("FROM public.t") == [(1, 2)]
