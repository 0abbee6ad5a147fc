"""Rules of the tree as a whole that no single module can break unnoticed."""
