"""Which publication a slot uses where the settings name none: everything that asks gets the same name."""

from __future__ import annotations

from contextlib import closing

import psycopg
import pytest

from dbmazz_core.connectors.sources.postgres.catalog.publication_name import with_publication_name
from dbmazz_core.connectors.sources.postgres.connection import Connection
from dbmazz_core.connectors.sources.postgres.setup.look import Look
from dbmazz_core.connectors.sources.postgres.setup.prepare import check, prepare, teardown
from dbmazz_core.connectors.sources.postgres.source import PostgresSource
from dbmazz_core.errors import MissingPrivilege
from dbmazz_core.settings.config import SourceConfig
from dbmazz_core.table_ref import quote_identifier
from tests.sources.postgres.setup.kit import ORDERS, Configure, catalog_state, connected_as, create_slot
from tests.support.postgres_fixtures import SourceDatabase

OURS, THEIRS = "'created by dbmazz'", "'of the billing team'"
SERVES = "E'created by dbmazz\\nslot {} serves 5f0c, /srv/shop.duckdb on host db1'"


def publication(name: str, comment: str | None = None) -> str:
    created = f"CREATE PUBLICATION {name} FOR TABLE orders; "
    return created if comment is None else f"{created} COMMENT ON PUBLICATION {name} IS {comment}; "


@pytest.mark.parametrize(
    ("slot_exists", "former", "own", "keeps"),
    [
        pytest.param(False, None, None, False, id="nothing is there"),
        pytest.param(True, None, None, False, id="a slot made by hand"),
        pytest.param(False, "other", None, False, id="beside an older capture"),
        pytest.param(False, THEIRS, None, False, id="beside a publication made by hand"),
        pytest.param(True, "slot", None, True, id="an older capture"),
        pytest.param(True, OURS, None, True, id="an older capture before slots were named"),
        pytest.param(True, "other", None, True, id="an older capture, and a later one"),
        pytest.param(True, None, OURS, False, id="a new capture"),
        pytest.param(True, "other", OURS, False, id="a new capture beside an older one"),
        pytest.param(True, OURS, THEIRS, False, id="a publication that somebody made for the slot"),
        pytest.param(True, "", None, True, id="an older capture, without any comment"),
        pytest.param(False, "slot", None, True, id="an older capture that has lost its slot"),
        pytest.param(True, "slot", THEIRS, True, id="an older capture, and another program's publication"),
        pytest.param(True, "slot", OURS, False, id="once torn down, and captured anew"),
    ],
)
def test_the_name_everywhere(
    database: SourceDatabase,
    conn: Connection,
    configure: Configure,
    slot_exists: bool,
    former: str | None,
    own: str | None,
    keeps: bool,
) -> None:
    config = configure(publication=None)
    comments = {"slot": SERVES.format(config.slot), "other": SERVES.format("other"), "": None}
    database.execute(ORDERS)
    if former is not None:
        database.execute(publication("dbmazz_pub", comments.get(former, former)))
    if own is not None:
        database.execute(publication(f"{config.slot}_pub", own))
    if slot_exists:
        create_slot(database, config.slot)
    before = catalog_state(database)

    name = "dbmazz_pub" if keeps else f"{config.slot}_pub"
    assert with_publication_name(conn, config).publication == name
    look = Look.read(conn, config)
    assert look.config.publication == name
    assert (look.publication is not None) == (keeps or own is not None)
    told = [finding.what for finding in check(conn, config).findings if "has begun with" in finding.what]
    assert (name in told[0] and f"{config.slot}_pub" in told[0]) if keeps else told == []
    with closing(PostgresSource(config)) as source:
        assert source.status().publication == name
        assert source.config.publication == name
    assert catalog_state(database) == before

    done = prepare(conn, config)[0].done
    assert done == (() if keeps or own is not None else (f'created publication "{name}"',))
    assert with_publication_name(conn, config).publication == name  # setup has not changed it
    assert any(f'publication "{name}"' in sentence for sentence in teardown(conn, config))


@pytest.mark.parametrize("given", ["dbmazz_pub", "mine"])
def test_a_name_in_the_settings_wins(
    database: SourceDatabase, conn: Connection, configure: Configure, given: str
) -> None:
    config = configure(publication=given)
    database.execute(ORDERS + ";" + publication("dbmazz_pub", SERVES.format(config.slot)))
    database.execute(publication(f"{config.slot}_pub", OURS))
    create_slot(database, config.slot)
    assert with_publication_name(conn, config).publication == given
    look = Look.read(conn, config)
    assert (look.config.publication, look.default_publication) == (given, None)


def test_the_slot_of_all_defaults_asks_nothing(
    conn: Connection, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = queries(monkeypatch)
    assert with_publication_name(conn, configure(slot="dbmazz_slot", publication=None)).publication == "dbmazz_pub"
    assert asked == []


def test_a_look_finds_the_name_without_another_query(
    database: SourceDatabase, conn: Connection, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.execute(ORDERS + ";" + publication("dbmazz_pub", OURS))
    create_slot(database, configure().slot)
    asked = queries(monkeypatch)
    counts = []
    for config in (configure(), configure(publication=None)):
        Look.read(conn, config)
        counts.append(len(asked))
        asked.clear()
    assert counts[0] == counts[1] > 0


def queries(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The queries that psycopg sends from now on."""
    sent: list[object] = []
    execute = psycopg.Cursor.execute

    def listed(cursor: psycopg.Cursor[object], query: object, *args: object, **options: object) -> object:
        sent.append(query)
        return execute(cursor, query, *args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(psycopg.Cursor, "execute", listed)
    return sent


def test_a_role_that_may_not_create_publications(database: SourceDatabase, configure: Configure, role: str) -> None:
    """The publication of an older capture is another owner's: it stays in use. A new slot needs its own."""
    database.execute(ORDERS + ";" + publication("dbmazz_pub", OURS))
    database.execute(f"GRANT SELECT ON orders TO {quote_identifier(role)}")
    with connected_as(database, role) as (conn, url):
        config: SourceConfig = configure(url=url, publication=None)
        with pytest.raises(MissingPrivilege, match=f'may not create publication "{config.slot}_pub"') as info:
            prepare(conn, config)
        assert f'CREATE PUBLICATION "{config.slot}_pub"' in info.value.remedy
        create_slot(database, config.slot)
        assert check(conn, config).ok
        assert prepare(conn, config)[0].done == ()
        with pytest.raises(MissingPrivilege, match='publication "dbmazz_pub" belongs to'):
            teardown(conn, config)


def test_teardown_of_one_of_two_forgets_its_slot(
    database: SourceDatabase, conn: Connection, configure: Configure
) -> None:
    config, other = configure(publication=None), configure(slot=f"other_{database.name}", publication=None)
    both = SERVES.format(config.slot) + f" E'\\nslot {other.slot} serves 77aa, /srv/other.duckdb on host db1'"
    database.execute(ORDERS + ";" + publication("dbmazz_pub", both.replace("' E'", "")))
    for slot in (config.slot, other.slot):
        create_slot(database, slot)
    dropped, left = teardown(conn, config)
    assert dropped == f"dropped replication slot {config.slot}"
    assert left.endswith("to drop it, add --publication dbmazz_pub --drop-publication")
    ((comment,),) = database.fetch("SELECT obj_description(oid, 'pg_publication') FROM pg_publication")
    assert comment == f"created by dbmazz\nslot {other.slot} serves 77aa, /srv/other.duckdb on host db1"
    assert with_publication_name(conn, config).publication == f"{config.slot}_pub"
    assert teardown(conn, other) == [f"dropped replication slot {other.slot}", 'dropped publication "dbmazz_pub"']
