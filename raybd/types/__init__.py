"""The words: the data that flows between the stages, and the protocol of each role."""
