"""The workers: given a history, when a message comes, then these facts."""
