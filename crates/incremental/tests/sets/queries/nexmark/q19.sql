-- Auction top ten by price
SELECT *
FROM (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY auction ORDER BY price DESC, date_time, extra, bidder, channel, url
        ) AS place
    FROM bid
) AS ranked
WHERE place <= 10
