-- What each user has done minute by minute, for two days: velocity checks, "how often in the last hour".
-- keep: 48h
SELECT user_id, event_type, date_trunc('minute', event_time) AS minute,
       count(*) AS event_count, sum(amount) AS revenue
FROM events
GROUP BY user_id, event_type, date_trunc('minute', event_time)
