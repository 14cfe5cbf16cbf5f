-- Who was here in the last five minutes; goes down by itself when nobody comes.
SELECT count(DISTINCT visitor_id) AS visitors
FROM views
WHERE sent_at > now() - INTERVAL '5 minutes'
