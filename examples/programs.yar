// What programs begin with, and names that they look up.
rule program : header
{
    meta:
        description = "a program or library in memory"
    strings:
        $mz = "MZ"
        $stub = "cannot be run in DOS mode"
    condition:
        $mz at 0 and $stub
}

rule names_kernel32
{
    strings:
        $name = "kernel32.dll" wide nocase
    condition:
        $name
}
