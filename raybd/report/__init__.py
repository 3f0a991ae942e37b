"""The store as one static HTML page: tables, score plots and galleries. Draws what is stored and never computes a score."""
