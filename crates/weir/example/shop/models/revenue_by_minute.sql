-- What came in, minute by minute.
-- weir: key = ["minute"]
SELECT date_trunc('minute', paid_at) AS minute, count(*) AS payments, sum(amount) AS revenue
FROM payments
GROUP BY date_trunc('minute', paid_at)
