-- What the ledger expects each processor to pay for a day.
-- weir: key = ["processor", "currency", "day"]
SELECT processor, currency, date_trunc('day', at) AS day, sum(net) AS amount, max(at) AS at
FROM expected_lines
GROUP BY processor, currency, date_trunc('day', at)
