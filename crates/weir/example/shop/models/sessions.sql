-- Visits: views of one visitor with less than half an hour between them.
-- weir: key = ["visitor_id", "session"]
WITH gaps AS (
    SELECT
        visitor_id,
        event_id,
        sent_at,
        CASE
            WHEN lag(sent_at) OVER (PARTITION BY visitor_id ORDER BY sent_at, event_id) >= sent_at - INTERVAL '30 minutes' THEN 0
            ELSE 1
        END AS starts
    FROM views
),
numbered AS (
    SELECT visitor_id, sent_at, sum(starts) OVER (PARTITION BY visitor_id ORDER BY sent_at, event_id) AS session
    FROM gaps
)
SELECT visitor_id, session, min(sent_at) AS started_at, max(sent_at) AS ended_at, count(*) AS views
FROM numbered
GROUP BY visitor_id, session
