-- The newest fencing token of all jobs. A claim takes a higher one, and none below the clock's milliseconds, so that a store
-- that is new or came from a backup goes on above what was handed out before.
CREATE TABLE fencing (token BIGINT NOT NULL);
INSERT INTO fencing (token) VALUES (0);
