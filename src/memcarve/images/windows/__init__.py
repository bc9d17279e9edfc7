"""Windows x64: its processes and what they hold, found in memory without symbols."""
