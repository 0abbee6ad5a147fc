"""Everything that Triplane promises, tried."""
