-- Highest bid of each 10 seconds
SELECT b.auction, b.price, b.bidder, b.date_time, b.extra
FROM bid AS b
JOIN (
    SELECT
        max(price) AS most,
        date_bin(INTERVAL '10 seconds', date_time, TIMESTAMP '2026-01-01') AS starts
    FROM bid
    GROUP BY date_bin(INTERVAL '10 seconds', date_time, TIMESTAMP '2026-01-01')
) AS w ON b.price = w.most
WHERE b.date_time BETWEEN w.starts AND w.starts + INTERVAL '10 seconds'
