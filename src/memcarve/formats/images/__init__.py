"""Containers of a machine's physical memory."""
