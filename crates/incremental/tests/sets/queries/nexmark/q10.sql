-- Log to a file system, by day and minute
SELECT
    auction,
    bidder,
    price,
    date_time,
    extra,
    CAST(CAST(date_time AS DATE) AS VARCHAR) AS day,
    date_part('hour', date_time) * 60 + date_part('minute', date_time) AS minute
FROM bid
