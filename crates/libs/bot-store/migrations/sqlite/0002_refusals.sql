-- How long the broker has refused a message is known to the process that is refused, and to nobody after it.
ALTER TABLE outbox DROP COLUMN refused_at_ms;
