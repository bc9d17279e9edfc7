"""The layout of a Windows x64 kernel's structures, learned from its memory if no table has its build, or it is wrong.

An offset counts if its contents look as they must in most of the processes that are looked at: a process may be
damaged, or made to deceive, but neither makes a wrong offset right. If two offsets would give different results and
nothing decides between them, the offset is unknown.
"""
