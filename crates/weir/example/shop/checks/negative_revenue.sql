-- No minute takes in less than nothing: a refund is not a payment.
-- weir: severity = "block"
-- weir: message = "the minute {minute} took in {revenue}"
SELECT minute, revenue FROM revenue_by_minute WHERE revenue < 0
