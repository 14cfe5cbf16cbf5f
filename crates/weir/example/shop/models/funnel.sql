-- How many visitors got how far.
-- weir: key = ["step"]
SELECT 1 AS step, 'saw a page' AS name, count(DISTINCT visitor_id) AS visitors FROM views
UNION ALL
SELECT 2 AS step, 'saw a product' AS name, count(DISTINCT visitor_id) AS visitors FROM views WHERE product_id IS NOT NULL
UNION ALL
SELECT 3 AS step, 'put it in the basket' AS name, count(DISTINCT visitor_id) AS visitors FROM clicks WHERE element = 'add_to_basket'
UNION ALL
SELECT 4 AS step, 'ordered' AS name, count(DISTINCT visitor_id) AS visitors FROM orders
UNION ALL
SELECT 5 AS step, 'paid' AS name, count(DISTINCT visitor_id) AS visitors FROM orders WHERE status = 'paid'
