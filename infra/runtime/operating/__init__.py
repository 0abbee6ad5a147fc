"""What operators do. Every act is kept, with who and why."""
