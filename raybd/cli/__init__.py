"""The commands, and the tables that they print."""
