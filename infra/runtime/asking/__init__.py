"""What people ask: the read models, and how fresh everything is."""
