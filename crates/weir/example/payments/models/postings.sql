-- Double entry: twelve postings a capture, four a refund, six a chargeback. Debits are positive, and every event adds up to zero.
SELECT event_id, payment_id, currency, at, p['account'] AS account, p['amount'] AS amount
FROM (
  SELECT event_id, payment_id, currency, at, unnest([
    named_struct('account', 'receivable/' || processor, 'amount', amount),
    named_struct('account', 'payable/' || merchant,     'amount', -amount),
    named_struct('account', 'payable/' || merchant,     'amount', fee),
    named_struct('account', 'income/fees',              'amount', -fee),
    named_struct('account', 'payable/' || merchant,     'amount', tax),
    named_struct('account', 'payable/tax',              'amount', -tax),
    named_struct('account', 'cost/scheme',              'amount', scheme_fee),
    named_struct('account', 'receivable/' || processor, 'amount', -scheme_fee),
    named_struct('account', 'cost/interchange',         'amount', interchange),
    named_struct('account', 'receivable/' || processor, 'amount', -interchange),
    named_struct('account', 'payable/' || merchant,     'amount', reserve),
    named_struct('account', 'reserve/' || merchant,     'amount', -reserve)
  ]) AS p
  FROM captures
  UNION ALL
  SELECT event_id, payment_id, currency, at, unnest([
    named_struct('account', 'payable/' || merchant,     'amount', amount),
    named_struct('account', 'receivable/' || processor, 'amount', -amount),
    named_struct('account', 'payable/' || merchant,     'amount', CAST(0.25 AS DECIMAL(18, 2))),
    named_struct('account', 'income/refunds',           'amount', CAST(-0.25 AS DECIMAL(18, 2)))
  ]) AS p
  FROM refunds
  UNION ALL
  SELECT event_id, payment_id, currency, at, unnest([
    named_struct('account', 'payable/' || merchant,     'amount', amount),
    named_struct('account', 'receivable/' || processor, 'amount', -amount),
    named_struct('account', 'payable/' || merchant,     'amount', fee),
    named_struct('account', 'income/disputes',          'amount', -fee),
    named_struct('account', 'cost/disputes',            'amount', fee),
    named_struct('account', 'receivable/' || processor, 'amount', -fee)
  ]) AS p
  FROM chargebacks
) AS events
