"""Stripe: the only home of its SDK."""
