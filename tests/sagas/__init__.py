"""The flows: alone, state by state, and together with the workers."""
