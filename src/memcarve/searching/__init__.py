"""Looking for patterns in blocks of memory: each kind has an engine, whose results are the same with any extra."""
