"""From the topics into transactions: positions, batches, the inbox, and what is parked."""
