"""The contracts: what each lets in, and how it reads what was recorded."""
