# written by memcarve 0.1.0; run as: radare2 -n -i map.r2 DUMP
?= $s-0x19d000
?? ?e the file has not 1691648 bytes: it is not the one that this script was written for
?= $s-0x19d000
?? q!
# the processor is not known: choose it by e asm.arch
e asm.bits=32
e io.va=true
om-*
om 3 0x7ffe0000 0x1000 0x0 r-- private
f mem.private.7ffe0000 0x1000 @ 0x7ffe0000
CCu base64:cHJpdmF0ZTsgUEFHRV9SRUFET05MWQ== @ 0x7ffe0000
s 0x7ffe0000
