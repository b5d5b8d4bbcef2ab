select
    id as order_id,
    customer_id,
    status,
    placed_at
from {{ source('shop', 'orders') }}
where status <> 'cancelled'
