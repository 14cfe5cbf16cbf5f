-- Find last bid
SELECT auction, bidder, price, channel, url, date_time, extra
FROM (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY bidder, auction ORDER BY date_time DESC, extra, price, channel, url
        ) AS place
    FROM bid
) AS ranked
WHERE place <= 1
