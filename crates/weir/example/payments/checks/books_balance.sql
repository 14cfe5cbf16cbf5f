-- All accounts of a currency add up to zero, in every epoch.
-- weir: severity = "block"
-- weir: message = "the books of {currency} are out by {total}"
SELECT currency, sum(balance) AS total FROM balances GROUP BY currency HAVING sum(balance) <> 0
