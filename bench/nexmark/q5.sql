-- The auctions with the most bids in windows of ten seconds that begin every two.
WITH windowed AS (
    SELECT auction, unnest(make_array(
        bin, bin - INTERVAL '2 seconds', bin - INTERVAL '4 seconds', bin - INTERVAL '6 seconds', bin - INTERVAL '8 seconds'
    )) AS start
    FROM (SELECT auction, tumble(date_time, INTERVAL '2 seconds') AS bin FROM bid) AS binned
), counted AS (
    SELECT auction, start, count(*) AS bids FROM windowed GROUP BY auction, start
), most AS (
    SELECT start, max(bids) AS bids FROM counted GROUP BY start
)
SELECT counted.auction, counted.bids, counted.start
FROM counted JOIN most ON counted.start = most.start AND counted.bids = most.bids
