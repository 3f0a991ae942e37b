"""The store: tables and their schemas, artefacts, atomic files, provenance."""
