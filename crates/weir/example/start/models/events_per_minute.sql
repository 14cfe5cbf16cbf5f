-- How many events there were of each name in each minute.
-- weir: key = ["minute", "name"]
SELECT date_trunc('minute', sent_at) AS minute, name, count(*) AS events
FROM events
GROUP BY date_trunc('minute', sent_at), name
