-- The bank's lines that were matched settle what processors owe.
SELECT m.right_line_id AS line_id, b.currency, b.booked_at AS at, e.account, b.amount * e.sign AS amount
FROM processor_to_bank_matched AS m
JOIN bank_lines AS b ON b.line_id = m.right_line_id
CROSS JOIN (VALUES ('bank', 1), ('settled', -1)) AS e(account, sign)
