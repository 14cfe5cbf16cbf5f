-- The postings of one event add up to zero.
-- weir: message = "event {event_id} is out by {total}"
SELECT event_id, sum(amount) AS total FROM postings GROUP BY event_id HAVING sum(amount) <> 0
