"""The tour of the main job: an outside publisher, and the read models' answers held against what it sent."""
