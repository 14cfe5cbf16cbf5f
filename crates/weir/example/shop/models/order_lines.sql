-- Orders with what everybody asks for next to them.
-- weir: key = ["order_id"]
SELECT
    o.order_id,
    o.visitor_id,
    o.status,
    o.quantity,
    o.amount,
    o.updated_at,
    p.name AS product,
    p.category,
    c.country
FROM orders o
LEFT JOIN products p ON p.product_id = o.product_id
LEFT JOIN customers c ON c.customer_id = o.customer_id
