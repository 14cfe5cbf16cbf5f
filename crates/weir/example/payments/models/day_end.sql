-- The close of each day: turnover and closing balance by account, six hours after the day has ended.
-- weir: key = ["day", "account", "currency"]
SELECT day, account, currency, turnover, closing
FROM (
  SELECT day, account, currency, turnover, sum(turnover) OVER (PARTITION BY account, currency ORDER BY day) AS closing
  FROM (
    SELECT date_trunc('day', at) AS day, account, currency, sum(amount) AS turnover
    FROM postings
    GROUP BY date_trunc('day', at), account, currency
  ) AS days
) AS closes
WHERE now() >= day + INTERVAL '30 hours'
