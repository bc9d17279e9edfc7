"""Where a Linux kernel keeps the members of its structures, learned from its memory if its types are not at hand.

Structures prove themselves: lists lead back, pointers point to each other, numbers are in the order that they must be
in. What C says of the order of members (that `tgid` follows `pid`) tells where to look, and what lies there whether it
is so. A member counts if it is so in nearly all structures that are looked at: one may be damaged, or made to deceive,
but neither makes a wrong offset right. If two places would do, the member is unknown.
"""
