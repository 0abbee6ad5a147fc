"""Apache Kafka: the home of its drivers."""
