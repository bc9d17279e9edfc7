"""What a Windows x64 kernel is like, learned from its memory: where no table has its build, or the table errs.

An offset counts where what is found there looks like what it has to be, in most of the processes that are looked at: a
process may be damaged, or made to deceive, and neither makes another offset right. Where two would tell different
things and nothing decides, it is unknown.
"""
