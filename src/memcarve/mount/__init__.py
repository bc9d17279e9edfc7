"""A folder of files that are made when they are read: what memcarve can write, without writing it."""
