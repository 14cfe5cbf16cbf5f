-- Page views as people mean them: the path without its query, nobody without an id.
SELECT
    event_id,
    visitor_id,
    lower(split_part(url, '?', 1)) AS path,
    product_id,
    sent_at
FROM page_views
WHERE visitor_id <> ''
