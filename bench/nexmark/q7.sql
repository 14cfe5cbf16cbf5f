-- The highest bids of every ten seconds.
SELECT b.auction, b.price, b.bidder, b.date_time, b.extra
FROM bid b JOIN (
    SELECT tumble(date_time, INTERVAL '10 seconds') AS start, max(price) AS price
    FROM bid GROUP BY tumble(date_time, INTERVAL '10 seconds')
) AS m ON b.price = m.price AND tumble(b.date_time, INTERVAL '10 seconds') = m.start
