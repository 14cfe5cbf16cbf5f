-- What stands in each account.
-- weir: key = ["account", "currency"]
SELECT account, currency, sum(amount) AS balance, sum(postings) AS postings
FROM (
  SELECT account, currency, sum(amount) AS amount, count(*) AS postings FROM postings GROUP BY account, currency
  UNION ALL
  SELECT account, currency, sum(amount), count(*) FROM settlements GROUP BY account, currency
) AS both_books
GROUP BY account, currency
