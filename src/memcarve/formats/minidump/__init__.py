"""Minidumps of Windows processes: their layout, reading and writing.

Source: Microsoft, MINIDUMP_HEADER and the structures that it leads to (minidumpapiset.h, learn.microsoft.com/windows/
win32/api/minidumpapiset); CONTEXT and the memory constants of winnt.h. Numbers are little-endian, structures packed to
four bytes. An RVA is an offset in the file.
"""
