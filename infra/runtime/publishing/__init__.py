"""From the outbox to the topics: never skipped, never reordered."""
