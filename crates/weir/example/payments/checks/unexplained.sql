-- Each cent that bank and ledger differ by is explained by a finding. Statements may be a week late.
-- weir: severity = "warn"
-- weir: message = "{processor} {currency} {day}: {difference}, of which {explained} is explained"
SELECT processor, currency, day, difference, explained FROM explained WHERE difference <> explained
