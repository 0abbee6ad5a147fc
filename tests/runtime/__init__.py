"""The engine, part by part and batch by batch, on a real database."""
