"""Tools that look at a victim, a poison or a cell. One tool = one file: it returns a table."""
