-- What each item has sold, day by day. The key is no user's, so any partition of the log may have events of any item.
SELECT stock_code AS item, date_trunc('day', event_time) AS day,
       count(*) AS event_count, sum(quantity) AS quantity, sum(amount) AS revenue, approx_distinct(user_id) AS buyers
FROM events
GROUP BY stock_code, date_trunc('day', event_time)
