"""Flows across contexts on the real broker and database, as upstream starts them and as readers see them end."""
