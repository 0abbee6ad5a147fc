"""A Stripe for development: the official SDK talks to it as to Stripe, and its state survives any kill."""
