"""Pages of a Windows x64 machine that a process's page tables do not lead to: shared, paged out, never touched."""
