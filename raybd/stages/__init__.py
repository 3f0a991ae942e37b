"""What happens inside a cell. One stage = one file."""
