"""Methods as a user would bring them, for tests of what happens when one misbehaves."""
