"""The part of the report about cells: tables, scores, scans and attacks."""
