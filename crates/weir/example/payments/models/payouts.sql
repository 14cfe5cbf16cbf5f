-- What the processors say they paid out.
-- weir: key = ["payout_id"]
SELECT payout_id, processor, currency, sum(net) AS amount, max(processed_at) AS at, date_trunc('day', min(processed_at)) AS day
FROM processor_lines
GROUP BY payout_id, processor, currency
