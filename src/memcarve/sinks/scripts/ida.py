"""The script for IDA: IDAPython of IDA 7.0 and later, in an empty database."""

from __future__ import annotations

NAME = "map_ida.py"

BODY = '''

import idaapi

PROCESSORS = {"x86": "metapc", "x64": "metapc", "arm": "ARM", "arm64": "ARM"}
LETTERS = {"r": 4, "w": 2, "x": 1}


def setup(table):
    """Choose the processor, if the dump said which it was."""
    bits = table["bits"]
    processor = PROCESSORS.get(table["process"]["architecture"])
    if processor is not None:
        idaapi.set_processor_type(processor, idaapi.SETPROC_LOADER_NON_FATAL)
    if hasattr(idaapi, "inf_set_app_bitness"):
        idaapi.inf_set_app_bitness(bits)
    else:
        idaapi.inf_set_64bit(bits == 64)


def map_memory(folder):
    """Make a sparse segment for each row, and load its bytes from the dump; return how many there are."""
    table = load(folder)
    source = idaapi.loader_input_t()
    if not source.open(original(table, folder), False):
        raise ValueError("the dump cannot be opened")
    try:
        setup(table)
        for start, size, offset, access, name in table["rows"]:
            begin = int(start, 16)
            end = min(begin + size, idaapi.BADADDR)  # IDA has no address for the very last byte
            if end <= begin:
                continue
            word, text = table["names"][name]
            segment = idaapi.segment_t()
            segment.start_ea = begin
            segment.end_ea = end
            segment.bitness = 2 if table["bits"] == 64 else 1
            segment.sel = idaapi.setup_selector(0)
            segment.align = idaapi.saRelByte
            segment.comb = idaapi.scPub
            # no letters: IDA takes 0 for "not known"
            segment.perm = sum(LETTERS.get(letter, 0) for letter in access or "")
            kind = "DATA" if access is not None and "x" not in access else "CODE"
            flags = idaapi.ADDSEG_SPARSE | idaapi.ADDSEG_NOSREG | idaapi.ADDSEG_QUIET | idaapi.ADDSEG_NOAA
            if not idaapi.add_segm_ex(segment, word, kind, flags):
                raise ValueError("the segment at %s cannot be made" % start)
            if not source.file2base(offset, begin, end, False):
                raise ValueError("the bytes at %s cannot be loaded" % start)
            idaapi.set_segment_cmt(idaapi.getseg(begin), text, False)
    finally:
        source.close()
    return len(table["rows"])


print("memcarve: %d pieces mapped" % map_memory(os.path.dirname(os.path.abspath(__file__))))
'''
