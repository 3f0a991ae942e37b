"""Everything that runs on Ray; no other folder imports it."""
