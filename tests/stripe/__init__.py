"""Stripe: the adapter, its webhooks, and the simulator that stands in for it."""
