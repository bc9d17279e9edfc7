"""One command run on many inputs, each in a process of its own; what became of each is kept in ``batch.json``."""
