"""The read models: what each says of a history, however it is heard."""
