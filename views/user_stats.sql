SELECT user_id, date_trunc('day', event_time) AS bucket,
       count(*) AS event_count, sum(amount) AS revenue,
       min(event_time) AS first_event_time, max(event_time) AS last_event_time
FROM events
GROUP BY user_id, date_trunc('day', event_time)
