"""What data sets share: their fields and split, and how images are found, decoded and stored."""
