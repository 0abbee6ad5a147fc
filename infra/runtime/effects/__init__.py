"""What touches the outside: recorded in a batch, done in lanes, looked up before it is repeated."""
