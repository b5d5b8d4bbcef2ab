with returned as (
    select order_id, line, sum(quantity) as quantity
    from {{ source('shop', 'returns') }}
    group by all
)

select
    items.order_id,
    items.line,
    items.unit_price,
    items.quantity,
    coalesce(returned.quantity, 0) as returned
from {{ source('shop', 'order_items') }} as items
left join returned on returned.order_id = items.order_id and returned.line = items.line
