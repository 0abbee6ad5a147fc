"""The front door: what README.md shows is true."""
