"""The engine: one fold over keyed streams, a batch at a time, with exactly-once effects."""
