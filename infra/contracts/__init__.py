"""The contracts as documents: JSON Schema, AsyncAPI, the catalogue and its map. All of it is derived from the code."""
