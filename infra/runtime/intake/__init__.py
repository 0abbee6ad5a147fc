"""What comes in other than by Kafka, and what became of it."""
