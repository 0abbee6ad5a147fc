"""What must hold when processes are killed and held up, and servers fall: counted, each with a mutant that fails."""
