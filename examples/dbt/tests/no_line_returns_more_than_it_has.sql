select *
from {{ ref('stg_order_items') }}
where returned > quantity
