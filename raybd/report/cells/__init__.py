"""The report's page of cells."""
