-- Merchants by what they owe: each is in exactly one of exposure_safe, exposure_watch and exposure_in_debt.
-- weir: key = ["merchant", "currency"]
SELECT
  merchant, currency, payable, reserve,
  CASE WHEN payable <= 0 THEN 'safe' WHEN payable <= -reserve THEN 'watch' ELSE 'in_debt' END AS output
FROM (
  SELECT
    split_part(account, '/', 2) AS merchant, currency,
    sum(CASE WHEN account LIKE 'payable/%' THEN balance ELSE 0 END) AS payable,
    sum(CASE WHEN account LIKE 'reserve/%' THEN balance ELSE 0 END) AS reserve
  FROM balances
  WHERE account LIKE 'payable/m%' OR account LIKE 'reserve/m%'
  GROUP BY split_part(account, '/', 2), currency
) AS merchants
