-- Who sold something within the ten seconds in which they came.
SELECT p.id, p.name, p.start
FROM (
    SELECT id, name, tumble(date_time, INTERVAL '10 seconds') AS start FROM person
    GROUP BY id, name, tumble(date_time, INTERVAL '10 seconds')
) AS p JOIN (
    SELECT seller, tumble(date_time, INTERVAL '10 seconds') AS start FROM auction
    GROUP BY seller, tumble(date_time, INTERVAL '10 seconds')
) AS a ON p.id = a.seller AND p.start = a.start
