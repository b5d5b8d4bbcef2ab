"""The workload of the demo: a steady stream of transactions with all kinds of changes."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import psycopg

from dbmazz_core.demo.shop import Connection, random_attributes, random_email, random_item, random_name

#: With more orders, the workload deletes more than it inserts, so that the demo can run for days.
_MANY_ORDERS = 2000
_JOIN_TIMEOUT_S = 5.0
#: Seconds between two tests whether a pause is over.
_PAUSE_S = 0.1


class _RolledBack(Exception):
    """Raised in a transaction to roll it back."""


class Traffic:
    """Transactions on the shop's tables, in a thread.

    ```python
    with Traffic(url, rate=25) as traffic:
        ...
    print(traffic.transactions)
    ```

    Args:
        url: URL of the shop's database.
        rate: Transactions per second.
        seed: Seed of the random numbers, which makes the transactions repeatable (not their times).

    Attributes:
        transactions: Number of committed transactions.
        paused: Set to True to pause the workload.
        error: The error that ended the workload early, else None.
    """

    def __init__(self, url: str, *, rate: float, seed: int | None = None) -> None:
        self.transactions = 0
        self.paused = False
        self.error: psycopg.Error | None = None
        self._url = url
        self._interval = 1 / rate
        self._rng = random.Random(seed)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="demo-traffic", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop after the current transaction. Does nothing if the workload has ended."""
        self._stopping.set()
        self._thread.join(_JOIN_TIMEOUT_S)

    def _run(self) -> None:
        try:
            with psycopg.connect(self._url, autocommit=True, application_name="demo traffic") as connection:
                self._work(connection)
        except psycopg.Error as error:
            # The server may be gone already while the workload stops.
            if not self._stopping.is_set():
                self.error = error

    def _work(self, connection: Connection) -> None:
        kinds, weights = zip(*_TRANSACTIONS, strict=True)
        due = time.monotonic()
        while not self._stopping.wait(max(0.0, due - time.monotonic())):
            if self.paused:
                due = time.monotonic() + _PAUSE_S
                continue
            (kind,) = self._rng.choices(kinds, weights)
            try:
                with connection.transaction():
                    kind(connection, self._rng)
                self.transactions += 1
            except _RolledBack:
                pass
            # After a delay, at most one second of transactions is made up for.
            due = max(due + self._interval, time.monotonic() - 1)


def _random_id(connection: Connection, rng: random.Random, table: str) -> int | None:
    """Return the id of a random row, None for an empty table. The primary key's index makes this fast."""
    found = _one(connection, f"SELECT min(id), max(id) FROM public.{table}")
    if found[0] is None:
        return None
    place = rng.randint(found[0], found[1])
    return int(_one(connection, f"SELECT id FROM public.{table} WHERE id >= %s ORDER BY id LIMIT 1", place)[0])


def _one(connection: Connection, query: str, *arguments: object) -> tuple[Any, ...]:
    row = connection.execute(query.encode(), arguments).fetchone()
    assert row is not None
    return row


def _next_id(connection: Connection, table: str) -> int:
    return int(_one(connection, "SELECT nextval(pg_get_serial_sequence(%s, 'id'))", f"public.{table}")[0])


def _add_items(connection: Connection, rng: random.Random, order: int) -> None:
    for _ in range(rng.randint(1, 3)):
        connection.execute(
            "INSERT INTO public.order_items (order_id, product, quantity, unit_price, attributes) "
            "VALUES (%s, %s, %s, %s, %s)",
            (order, *random_item(rng)),
        )


def _update_total(connection: Connection, order: int) -> None:
    connection.execute(
        "UPDATE public.orders SET total = "
        "(SELECT coalesce(sum(quantity * unit_price), 0) FROM public.order_items WHERE order_id = %s) WHERE id = %s",
        (order, order),
    )


def _place_order(connection: Connection, rng: random.Random) -> None:
    """Insert into two or three tables, and update a row that the same transaction inserted."""
    customer = _random_id(connection, rng, "customers")
    if customer is None or rng.random() < 0.3:
        name, email = random_name(rng), random_email(rng)
        insert = "INSERT INTO public.customers (name, email) VALUES (%s, %s) RETURNING id"
        customer = int(_one(connection, insert, name, email)[0])
    order = int(_one(connection, "INSERT INTO public.orders (customer_id) VALUES (%s) RETURNING id", customer)[0])
    _add_items(connection, rng, order)
    _update_total(connection, order)


def _advance_order(connection: Connection, rng: random.Random) -> None:
    status = rng.choice(("paid", "shipped", "delivered", "cancelled"))
    order = _random_id(connection, rng, "orders")
    connection.execute("UPDATE public.orders SET status = %s WHERE id = %s", (status, order))


def _change_quantity(connection: Connection, rng: random.Random) -> None:
    """Update an item without its 8 KB of attributes, an unchanged TOAST value, and the total of its order."""
    if (item := _random_id(connection, rng, "order_items")) is not None:
        update = "UPDATE public.order_items SET quantity = quantity + 1 WHERE id = %s RETURNING order_id"
        _update_total(connection, int(_one(connection, update, item)[0]))


def _rewrite_attributes(connection: Connection, rng: random.Random) -> None:
    item = _random_id(connection, rng, "order_items")
    update = "UPDATE public.order_items SET attributes = %s WHERE id = %s"
    connection.execute(update, (random_attributes(rng), item))


def _change_customer(connection: Connection, rng: random.Random) -> None:
    customer = _random_id(connection, rng, "customers")
    update = "UPDATE public.customers SET email = %s, newsletter = NOT newsletter, birthday = NULL WHERE id = %s"
    connection.execute(update, (random_email(rng), customer))


def _renumber_order(connection: Connection, rng: random.Random) -> None:
    """Change the key of an order; the foreign key changes its items."""
    order = _random_id(connection, rng, "orders")
    connection.execute("UPDATE public.orders SET id = %s WHERE id = %s", (_next_id(connection, "orders"), order))


def _renumber_item(connection: Connection, rng: random.Random) -> None:
    """Change the key of an item with an unchanged TOAST value, which the destination has under the old key."""
    item = _random_id(connection, rng, "order_items")
    new = _next_id(connection, "order_items")
    connection.execute("UPDATE public.order_items SET id = %s WHERE id = %s", (new, item))


def _swap_customers(connection: Connection, rng: random.Random) -> None:
    """Exchange the keys of two rows by way of a third key."""
    first, second = _random_id(connection, rng, "customers"), _random_id(connection, rng, "customers")
    if first is None or second is None or first == second:
        return
    spare = _next_id(connection, "customers")
    for old, new in ((first, spare), (second, first), (spare, second)):
        connection.execute("UPDATE public.customers SET id = %s WHERE id = %s", (new, old))


def _merge_customers(connection: Connection, rng: random.Random) -> None:
    """Assign a customer's orders to another customer, and delete the first."""
    kept, gone = _random_id(connection, rng, "customers"), _random_id(connection, rng, "customers")
    if kept != gone:
        connection.execute("UPDATE public.orders SET customer_id = %s WHERE customer_id = %s", (kept, gone))
        connection.execute("DELETE FROM public.customers WHERE id = %s", (gone,))


def _delete_orders(connection: Connection, rng: random.Random) -> None:
    """Delete an order with its items, or ten if there are many orders."""
    many = int(_one(connection, "SELECT count(*) FROM public.orders")[0]) > _MANY_ORDERS
    connection.execute(
        "DELETE FROM public.orders WHERE id IN (SELECT id FROM public.orders WHERE id >= %s ORDER BY id LIMIT %s)",
        (_random_id(connection, rng, "orders"), 10 if many else 1),
    )


def _replace_item(connection: Connection, rng: random.Random) -> None:
    """Delete a row and insert it again with the same key, twice, in one transaction."""
    if (item := _random_id(connection, rng, "order_items")) is None:
        return
    for _ in range(2):
        delete = "DELETE FROM public.order_items WHERE id = %s RETURNING order_id"
        order = _one(connection, delete, item)[0]
        connection.execute(
            "INSERT INTO public.order_items VALUES (%s, %s, %s, %s, %s, %s)", (item, order, *random_item(rng))
        )
    _update_total(connection, int(order))


def _roll_back(connection: Connection, rng: random.Random) -> None:
    """Roll back a savepoint, or the whole transaction: its changes must not be captured."""
    if rng.random() < 0.5:
        _place_order(connection, rng)
        raise _RolledBack
    _advance_order(connection, rng)
    try:
        with connection.transaction():
            _place_order(connection, rng)
            raise _RolledBack
    except _RolledBack:
        _advance_order(connection, rng)


_TRANSACTIONS: tuple[tuple[Callable[[Connection, random.Random], None], int], ...] = (
    (_place_order, 32),
    (_advance_order, 14),
    (_change_quantity, 14),
    (_rewrite_attributes, 6),
    (_change_customer, 6),
    (_renumber_order, 4),
    (_renumber_item, 4),
    (_swap_customers, 2),
    (_merge_customers, 2),
    (_delete_orders, 10),
    (_replace_item, 3),
    (_roll_back, 3),
)
