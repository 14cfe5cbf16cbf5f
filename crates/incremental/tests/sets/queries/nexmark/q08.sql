-- Monitor new users
SELECT p.id, p.name, p.starts
FROM (
    SELECT id, name, date_bin(INTERVAL '10 seconds', date_time, TIMESTAMP '2026-01-01') AS starts
    FROM person
    GROUP BY id, name, date_bin(INTERVAL '10 seconds', date_time, TIMESTAMP '2026-01-01')
) AS p
JOIN (
    SELECT seller, date_bin(INTERVAL '10 seconds', date_time, TIMESTAMP '2026-01-01') AS starts
    FROM auction
    GROUP BY seller, date_bin(INTERVAL '10 seconds', date_time, TIMESTAMP '2026-01-01')
) AS a ON p.id = a.seller AND p.starts = a.starts
