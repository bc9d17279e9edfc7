"""Programs and libraries, PE and ELF: as they lie in memory, and made files again."""
