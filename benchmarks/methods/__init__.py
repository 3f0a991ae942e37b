"""Methods that cost next to nothing, so that what a benchmark measures is raybd itself."""
