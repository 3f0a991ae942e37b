"""The report's page of sweeps."""
