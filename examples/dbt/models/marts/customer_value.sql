select
    customers.id as customer_id,
    customers.name,
    count(distinct orders.order_id) as orders,
    coalesce(sum((items.quantity - items.returned) * items.unit_price), 0) as revenue,
    max(orders.placed_at) as last_order_at
from {{ source('shop', 'customers') }} as customers
left join {{ ref('stg_orders') }} as orders on orders.customer_id = customers.id
left join {{ ref('stg_order_items') }} as items on items.order_id = orders.order_id
group by all
