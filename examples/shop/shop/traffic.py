"""Changes in the shop: `python -m shop.traffic` makes some every second, until Ctrl-C."""

from __future__ import annotations

import os
import random
import time
from contextlib import suppress
from typing import Any

import psycopg

Connection = psycopg.Connection[tuple[Any, ...]]


def place_order(connection: Connection, rng: random.Random) -> None:
    """A customer orders up to three products, and pays."""
    connection.execute(
        """
        WITH placed AS (
            INSERT INTO orders (customer_id, address_id, status)
            SELECT customer_id, id, 'paid' FROM addresses ORDER BY random() LIMIT 1
            RETURNING id
        ), bought AS (
            INSERT INTO order_items
            SELECT placed.id, row_number() OVER (), product.id, %(quantity)s, product.price
            FROM placed, (SELECT * FROM products ORDER BY random() LIMIT %(lines)s) AS product
            RETURNING *
        ), taken AS (
            UPDATE stock SET quantity = stock.quantity - bought.quantity FROM bought
            WHERE stock.product_id = bought.product_id AND stock.warehouse_id = %(warehouse)s
        )
        INSERT INTO payments (order_id, method, amount)
        SELECT order_id, 'card', sum(quantity * unit_price) FROM bought GROUP BY order_id
        """,
        {"quantity": rng.randint(1, 3), "lines": rng.randint(1, 3), "warehouse": rng.randint(1, 3)},
    )


def ship_orders(connection: Connection, rng: random.Random) -> None:
    """A warehouse ships what was paid."""
    connection.execute(
        """
        WITH shipped AS (UPDATE orders SET status = 'shipped' WHERE status = 'paid' RETURNING id)
        INSERT INTO shipments (order_id, warehouse_id, tracking_numbers)
        SELECT id, %s, ARRAY['TRACK-' || left(id::text, 8)] FROM shipped
        """,
        [rng.randint(1, 3)],
    )


def deliver_order(connection: Connection, rng: random.Random) -> None:
    """The oldest shipment arrives; some of it comes back."""
    connection.execute(
        """
        WITH arrived AS (
            UPDATE shipments SET delivered_at = now()
            WHERE id = (SELECT id FROM shipments WHERE delivered_at IS NULL ORDER BY shipped_at LIMIT 1)
            RETURNING order_id
        ), delivered AS (UPDATE orders SET status = 'delivered' FROM arrived WHERE orders.id = arrived.order_id)
        INSERT INTO returns (order_id, line, quantity, reason)
        SELECT order_id, 1, 1, 'damaged' FROM arrived WHERE %s
        """,
        [rng.random() < 0.3],
    )


def cancel_order(connection: Connection, rng: random.Random) -> None:
    """A cancelled order is forgotten, with its items."""
    connection.execute(
        "DELETE FROM orders WHERE id = (SELECT id FROM orders WHERE status = 'cancelled' ORDER BY placed_at LIMIT 1)"
    )


def change_price(connection: Connection, rng: random.Random) -> None:
    """A product gets another price, and says so."""
    connection.execute(
        """
        UPDATE products
        SET price = greatest(1, round(price * %s::numeric, 2)),
            attributes = attributes || '{"sale": true}',
            tags = '{sale}'
        WHERE id = (SELECT id FROM products ORDER BY random() LIMIT 1)
        """,
        [rng.choice((0.9, 1.1))],
    )


def refill_stock(connection: Connection, rng: random.Random) -> None:
    """A warehouse fills its shelves."""
    connection.execute(
        "UPDATE stock SET quantity = 500, counted_on = CURRENT_DATE WHERE quantity < 450 AND warehouse_id = %s",
        [rng.randint(1, 3)],
    )


KINDS = {place_order: 6, ship_orders: 1, deliver_order: 4, cancel_order: 1, change_price: 1, refill_stock: 1}


def main() -> None:
    """Run five transactions a second."""
    rng = random.Random()
    with psycopg.connect(os.environ["SOURCE_URL"], autocommit=True) as connection:
        while True:
            (kind,) = rng.choices(list(KINDS), list(KINDS.values()))
            kind(connection, rng)
            time.sleep(0.2)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
