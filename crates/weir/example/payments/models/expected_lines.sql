-- What the processors should report: an event a line, and what of it they should pay out.
-- weir: key = ["event_id"]
SELECT event_id, merchant, processor, currency, amount, amount - scheme_fee - interchange AS net, at FROM captures
UNION ALL
SELECT event_id, merchant, processor, currency, -amount, -amount, at FROM refunds
UNION ALL
SELECT event_id, merchant, processor, currency, -amount, -amount - fee, at FROM chargebacks
