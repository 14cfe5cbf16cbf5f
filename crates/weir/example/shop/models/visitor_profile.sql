-- One row per visitor: what they did and what they are worth.
-- weir: key = ["visitor_id"]
WITH seen AS (
    SELECT
        visitor_id,
        count(*) AS views,
        count(DISTINCT product_id) AS products,
        min(sent_at) AS first_seen,
        max(sent_at) AS last_seen
    FROM views
    GROUP BY visitor_id
),
bought AS (
    SELECT
        visitor_id,
        count(*) AS orders,
        sum(amount) FILTER (WHERE status = 'paid') AS spent
    FROM orders
    GROUP BY visitor_id
)
SELECT
    s.visitor_id,
    s.views,
    s.products,
    s.first_seen,
    s.last_seen,
    coalesce(b.orders, 0) AS orders,
    b.spent
FROM seen s
LEFT JOIN bought b ON b.visitor_id = s.visitor_id
