-- A chargeback is of a payment that we know.
-- weir: message = "chargeback {event_id} is of {payment_id}, which is not known"
SELECT c.event_id, c.payment_id, c.amount
FROM chargebacks AS c
WHERE NOT EXISTS (SELECT 1 FROM payments AS p WHERE p.payment_id = c.payment_id)
