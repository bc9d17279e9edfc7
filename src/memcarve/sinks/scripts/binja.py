"""The script for Binary Ninja: a new view over the dump, which Binary Ninja reads as it lies."""

from __future__ import annotations

NAME = "map_binja.py"

BODY = '''

import binaryninja

ARCHITECTURES = {"x86": "x86", "x64": "x86_64", "arm": "armv7", "arm64": "aarch64"}


def flags_of(access):
    """Return the access as Binary Ninja's flags; if it is not known, everything is allowed."""
    letters = "rwx" if access is None else access
    flag = binaryninja.SegmentFlag
    found = flag.SegmentReadable if "r" in letters else 0
    found |= flag.SegmentWritable if "w" in letters else 0
    found |= flag.SegmentExecutable if "x" in letters else 0
    return found


def semantics_of(access):
    """Return what a section holds, as far as its access shows."""
    kinds = binaryninja.SectionSemantics
    if access is None or ("w" in access and "x" in access):
        return kinds.DefaultSectionSemantics
    if "x" in access:
        return kinds.ReadOnlyCodeSectionSemantics
    return kinds.ReadWriteDataSectionSemantics if "w" in access else kinds.ReadOnlyDataSectionSemantics


def map_memory(folder):
    """Return a new view of the dump in which each row is a segment, and a section with its name."""
    table = load(folder)
    raw = binaryninja.BinaryViewType["Raw"].open(original(table, folder))
    view = binaryninja.BinaryViewType["Mapped"].create(raw)
    for segment in list(view.segments):  # the segment that shows the file as it lies
        view.remove_auto_segment(segment.start, len(segment))
        view.remove_user_segment(segment.start, len(segment))
    name = ARCHITECTURES.get(table["process"]["architecture"])
    if name is not None:
        view.platform = binaryninja.Architecture[name].standalone_platform
    bulk = hasattr(view, "begin_bulk_add_segments")
    if bulk:
        view.begin_bulk_add_segments()
    try:
        for start, size, offset, access, _ in table["rows"]:
            view.add_user_segment(int(start, 16), size, offset, size, flags_of(access))
    finally:
        if bulk:
            view.end_bulk_add_segments()
    for start, size, _, access, name in table["rows"]:
        word, text = table["names"][name]
        view.add_user_section("%s.%s" % (word, start[2:]), int(start, 16), size, semantics_of(access))
    seen = None
    for start, _, _, _, name in table["rows"]:
        if name != seen:
            view.set_comment_at(int(start, 16), table["names"][name][1])
        seen = name
    return view


view = map_memory(os.path.dirname(os.path.abspath(__file__)))
print("memcarve: mapped; the view is called view")
'''
