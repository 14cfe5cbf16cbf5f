-- Hot items: windows of 10 seconds that start every 2 seconds
WITH hops AS (
    SELECT
        b.auction,
        date_bin(INTERVAL '2 seconds', b.date_time, TIMESTAMP '2026-01-01') - s.back AS starts
    FROM bid AS b
    CROSS JOIN (
        VALUES (INTERVAL '0 seconds'), (INTERVAL '2 seconds'), (INTERVAL '4 seconds'), (INTERVAL '6 seconds'),
            (INTERVAL '8 seconds')
    ) AS s (back)
),
counts AS (
    SELECT auction, starts, count(*) AS num FROM hops GROUP BY auction, starts
)
SELECT c.auction, c.num, c.starts
FROM counts AS c
JOIN (SELECT starts, max(num) AS most FROM counts GROUP BY starts) AS m ON c.starts = m.starts AND c.num >= m.most
