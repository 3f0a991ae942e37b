"""From predictions and scores to numbers, and where scores are cut."""
