-- By processor, currency and day: what the bank has more than the ledger, and how much of it the findings explain.
-- weir: key = ["processor", "currency", "day"]
SELECT processor, currency, day, sum(difference) AS difference, sum(explained) AS explained
FROM (
  SELECT processor, currency, day, -amount AS difference, 0 AS explained FROM expected_days
  UNION ALL
  SELECT counterparty, currency, CAST(payout_day AS TIMESTAMP), sum(amount), 0
  FROM bank_lines GROUP BY counterparty, currency, payout_day
  UNION ALL
  SELECT processor, currency, day, 0, sum(effect) FROM findings GROUP BY processor, currency, day
) AS parts
GROUP BY processor, currency, day
