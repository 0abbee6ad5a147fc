"""A small context of the tests' own: one of everything that the engine can do, and ways to make each go wrong."""
