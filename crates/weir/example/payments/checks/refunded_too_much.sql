-- Nobody gets back more than they paid.
-- weir: message = "payment {payment_id}: {refunded} refunded of {captured}"
SELECT r.payment_id, r.refunded, c.captured
FROM (SELECT payment_id, sum(amount) AS refunded FROM refunds GROUP BY payment_id) AS r
LEFT JOIN (SELECT payment_id, sum(amount) AS captured FROM captures GROUP BY payment_id) AS c
  ON c.payment_id = r.payment_id
WHERE c.captured IS NULL OR r.refunded > c.captured
