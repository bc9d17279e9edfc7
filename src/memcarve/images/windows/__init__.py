"""Windows x64: its processes and their contents, found in memory without symbols."""
