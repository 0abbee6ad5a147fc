"""What is promised on the wire: a snapshot of every contract, and recorded messages that are read for ever."""
