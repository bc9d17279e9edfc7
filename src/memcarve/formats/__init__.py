"""Parsers and layouts of the files memcarve reads and writes; nothing here knows what they are used for."""
