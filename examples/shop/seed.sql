-- 200 customers and the 600 orders of the last 30 days. The ids are the same each time.

INSERT INTO customers (email, name, interests, preferences, created_at)
SELECT 'customer' || i || '@example.com',
       (ARRAY['Ada', 'Grace', 'Edsger', 'Zoë', 'Søren', 'Łukasz', '玲'])[1 + i % 7] || ' '
           || (ARRAY['O''Brien', 'Müller', 'Nguyễn', 'García', 'Kowalska', 'Ito'])[1 + i % 6],
       CASE i % 3 WHEN 0 THEN '{}' WHEN 1 THEN '{tea}' ELSE '{tea,"board games"}' END::text[],
       jsonb_build_object('newsletter', i % 2 = 0, 'language', (ARRAY['en', 'de', 'pl'])[1 + i % 3]),
       now() - i * interval '1 day'
FROM generate_series(1, 200) AS i;

INSERT INTO addresses (customer_id, street, city, country)
SELECT i, i || ' Main Street', (ARRAY['Dublin', 'Köln', 'Łódź'])[1 + i % 3], (ARRAY['IE', 'DE', 'PL'])[1 + i % 3]
FROM generate_series(1, 200) AS i;

INSERT INTO categories VALUES
    (1, NULL, 'home'), (2, NULL, 'leisure'), (3, 1, 'kitchen'), (4, 1, 'light'), (5, 2, 'games'), (6, 2, 'bicycles');

INSERT INTO suppliers VALUES
    (1, 'Brew & Sons', '[{"name": "Mrs Brew", "phone": "+353 1 555 0101"}]'),
    (2, 'Licht GmbH', '[{"name": "Herr Licht", "email": "licht@example.com"}]'),
    (3, 'Gry Planszowe', '[]');

INSERT INTO products
SELECT i, md5('product ' || i)::uuid, 3 + i % 4, 1 + i % 3,
       (ARRAY['teapot', 'lamp', 'chess set', 'bicycle bell', 'crème brûlée dish'])[1 + i % 5] || ' no. ' || i,
       4.99 + i * 3.5,
       jsonb_build_object('colour', (ARRAY['red', 'grün', 'sky blue'])[1 + i % 3], 'size', jsonb_build_array(i, i * 2)),
       CASE i % 4 WHEN 0 THEN '{new,gift}' ELSE '{}' END::text[],
       CASE WHEN i % 6 <> 0 THEN i * 0.1 END
FROM generate_series(1, 40) AS i;

INSERT INTO warehouses VALUES (1, 'DUB', 'Dublin', '07:00'), (2, 'CGN', 'Köln', '06:30'), (3, 'LCJ', 'Łódź', '08:00');

INSERT INTO stock
SELECT warehouse, product, 500 + product * 7 % 50, CURRENT_DATE - product
FROM generate_series(1, 3) AS warehouse, generate_series(1, 40) AS product;

INSERT INTO orders
SELECT md5('order ' || i)::uuid, 1 + i * 7 % 200, 1 + i * 7 % 200,
       (ARRAY['delivered', 'delivered', 'shipped', 'cancelled'])[1 + i % 4]::order_status,
       now() - (601 - i) * interval '72 minutes',
       CASE WHEN i % 10 = 0 THEN 'please ring twice' END
FROM generate_series(1, 600) AS i;

INSERT INTO order_items
SELECT md5('order ' || i)::uuid, line, product.id, 1 + (i + line) % 3, product.price
FROM generate_series(1, 600) AS i
CROSS JOIN LATERAL generate_series(1, 1 + i % 3) AS line
JOIN products AS product ON product.id = 1 + (i * 11 + line * 5) % 40;

INSERT INTO payments
SELECT md5('payment ' || orders.id)::uuid, orders.id,
       (ARRAY['card', 'transfer', 'voucher'])[1 + abs(hashtext(orders.id::text)) % 3]::payment_method,
       sum(items.quantity * items.unit_price), '{"provider": "example"}', min(orders.placed_at) + interval '5 minutes'
FROM orders JOIN order_items AS items ON items.order_id = orders.id
WHERE orders.status <> 'cancelled'
GROUP BY orders.id;

INSERT INTO shipments
SELECT md5('shipment ' || id)::uuid, id, 1 + abs(hashtext(id::text)) % 3, ARRAY['TRACK-' || left(id::text, 8)],
       '3 days', placed_at + interval '1 day',
       CASE WHEN status = 'delivered' THEN placed_at + interval '3 days 4 hours' END
FROM orders WHERE status IN ('shipped', 'delivered');

INSERT INTO returns
SELECT md5('return ' || order_id)::uuid, order_id, line, 1, 'changed_mind', placed_at + interval '6 days'
FROM order_items JOIN orders ON orders.id = order_id
WHERE status = 'delivered' AND line = 1 AND product_id % 5 = 0;
