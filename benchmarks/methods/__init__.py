"""Methods that cost almost nothing, so that a benchmark measures raybd itself."""
