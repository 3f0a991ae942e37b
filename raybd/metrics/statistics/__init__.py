"""How sure a number is: intervals, paired tests, ranks with intervals. One idea, one file."""
