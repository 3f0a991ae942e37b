"""The part of the report about sweeps."""
