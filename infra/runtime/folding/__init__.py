"""What a batch does to state: decisions, saga steps, rows. Loaded under locks, folded in memory, written set-wise."""
