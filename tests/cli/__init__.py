"""The command line, from the bootstrap script to exit codes."""
