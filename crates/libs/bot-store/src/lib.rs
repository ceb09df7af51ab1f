//! A bot's durable memory: inbox, outbox, jobs, timers and state in one transaction.
