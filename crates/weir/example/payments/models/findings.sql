-- What somebody has to look at: each thing that is wrong, once, with what it adds to the bank beside the ledger.
-- weir: key = ["kind", "id"]
WITH reported AS (
  SELECT reference, currency, max(line_id) AS line_id, max(amount) AS amount, max(net) AS net
  FROM ledger_to_processor_unmatched_right
  GROUP BY reference, currency
)
-- Events that no line matches: the processor has another amount, or nothing.
SELECT
  CASE WHEN r.line_id IS NULL THEN 'missing at processor' ELSE 'wrong amount at processor' END AS kind,
  l.event_id AS id, l.processor, l.currency, date_trunc('day', l.at) AS day, coalesce(r.net, 0) - l.net AS effect
FROM ledger_to_processor_unmatched_left AS l
LEFT JOIN reported AS r ON r.reference = l.event_id AND r.currency = l.currency
UNION ALL
-- Lines that no event matches: the event has another line already, or there is none.
SELECT
  CASE WHEN e.event_id IS NULL THEN 'unknown to ledger' ELSE 'twice at processor' END,
  r.line_id, r.processor, r.currency, date_trunc('day', r.processed_at), r.net
FROM ledger_to_processor_unmatched_right AS r
LEFT JOIN expected_lines AS e ON e.event_id = r.reference
WHERE NOT EXISTS (SELECT 1 FROM ledger_to_processor_unmatched_left AS l WHERE l.event_id = r.reference)
UNION ALL
-- Payouts that the bank has with another amount, or not at all.
SELECT
  CASE WHEN b.reference IS NULL THEN 'missing at bank' ELSE 'wrong amount at bank' END,
  p.payout_id, p.processor, p.currency, p.day, coalesce(b.amount, 0) - p.amount
FROM processor_to_bank_unmatched_left AS p
LEFT JOIN (
  SELECT reference, sum(amount) AS amount FROM processor_to_bank_unmatched_right GROUP BY reference
) AS b ON b.reference = p.payout_id
UNION ALL
-- Money from nowhere.
SELECT 'unknown at bank', b.line_id, b.counterparty, b.currency, CAST(b.payout_day AS TIMESTAMP), b.amount
FROM processor_to_bank_unmatched_right AS b
WHERE NOT EXISTS (SELECT 1 FROM processor_to_bank_unmatched_left AS p WHERE p.payout_id = b.reference)
