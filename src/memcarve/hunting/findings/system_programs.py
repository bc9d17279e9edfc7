"""System programs whose names others imitate: where they lie, and what starts them.

Windows: "Windows Internals", 7th edition, part 1, chapters 2 ("System processes") and 7; and the programs' own places
in an installation. Linux: the names of usual daemons, by their packages.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container

#: a process's name in Windows has as many characters at most; a longer one is cut (EPROCESS.ImageFileName)
CUT = 14

_SYSTEM32 = "\\system32\\"
#: the folder of each, below that of Windows
FOLDERS = {
    **dict.fromkeys(
        (
            "smss.exe", "csrss.exe", "wininit.exe", "winlogon.exe", "services.exe", "lsass.exe", "lsaiso.exe",
            "lsm.exe", "svchost.exe", "spoolsv.exe", "taskhost.exe", "taskhostw.exe", "taskhostex.exe", "dwm.exe",
            "conhost.exe", "dllhost.exe", "rundll32.exe", "userinit.exe", "logonui.exe", "fontdrvhost.exe",
            "sihost.exe", "ctfmon.exe", "wudfhost.exe", "searchindexer.exe", "runtimebroker.exe", "audiodg.exe",
            "taskmgr.exe", "taskeng.exe", "msdtc.exe", "dashost.exe", "backgroundtaskhost.exe",
        ),
        _SYSTEM32,
    ),
    "wmiprvse.exe": "\\system32\\wbem\\",
    "explorer.exe": "\\",
}  # fmt: skip
#: names that are as close to one of these as an imitation would be, and that honest programs have
NEIGHBOURS = frozenset({"service.exe", "taskhosts.exe", "dllhst3g.exe", "explore.exe", "userinit.com"})

#: programs whose parents end in the ordinary course: instances of smss.exe, and userinit.exe
PARENTS_END = frozenset({"csrss.exe", "wininit.exe", "winlogon.exe", "explorer.exe", "smss.exe"})
_PARENTS = {
    "smss.exe": ("system", "smss.exe"),
    "csrss.exe": ("smss.exe",),
    "wininit.exe": ("smss.exe",),
    "winlogon.exe": ("smss.exe",),
    "services.exe": ("wininit.exe",),
    "lsass.exe": ("wininit.exe",),
    "lsaiso.exe": ("wininit.exe",),
    "lsm.exe": ("wininit.exe",),
    "svchost.exe": ("services.exe",),
    "spoolsv.exe": ("services.exe",),
}
_BEFORE_VISTA = ("services.exe", "lsass.exe")

#: daemons of Linux, as their processes are called (15 characters)
DAEMONS = frozenset(
    {
        "accounts-daemon", "agetty", "apache2", "atd", "auditd", "avahi-daemon", "bluetoothd", "containerd", "cron",
        "crond", "cupsd", "dbus-broker", "dbus-daemon", "dhclient", "dnsmasq", "dockerd", "gdm", "httpd",
        "irqbalance", "klogd", "login", "lvmetad", "master", "mysqld", "named", "NetworkManager", "nginx", "ntpd",
        "polkitd", "postgres", "rpcbind", "rsyslogd", "rtkit-daemon", "smartd", "snapd", "sshd", "sssd", "syslogd",
        "systemd", "systemd-journal", "systemd-journald", "systemd-logind", "systemd-network", "systemd-networkd",
        "systemd-resolve", "systemd-resolved", "systemd-timesyn", "systemd-timesyncd", "systemd-udevd", "systemd-oomd",
        "udevd", "udisksd", "unattended-upgr", "upowerd", "wpa_supplicant", "chronyd", "crash-handler", "acpid",
    }
)  # fmt: skip
#: folders that anybody may write to, or that are a user's own
_LOOSE = re.compile(r"/(tmp|dev/shm|var/tmp|run/user|home|root|run/lock|var/lock|proc)/|.*/\.[^/]", re.DOTALL)
#: folders that a distribution's packages fill
_OF_PACKAGES = re.compile(r"(/snap/[^/]+/[^/]+)?/(usr|bin|sbin|lib|lib64|opt|nix|gnu|app)/", re.DOTALL)


def called(name: str) -> str | None:
    """Return which system program of Windows a process's name is, in small letters; None if it is none."""
    small = name.lower()
    if small in FOLDERS:
        return small
    whole = [each for each in FOLDERS if len(small) >= CUT and each.startswith(small)]
    return whole[0] if whole else None


def parents_of(name: str, names: Container[str]) -> tuple[str, ...]:
    """Return the names of what starts a system program, in small letters; none if anything may.

    `names` are those of all processes: before Vista there is no wininit.exe, and winlogon.exe does its work.
    """
    found = _PARENTS.get(called(name) or "", ())
    if name.lower() in _BEFORE_VISTA and "wininit.exe" not in names:
        return ("wininit.exe", "winlogon.exe")
    return found


def is_loose(path: str) -> bool:
    """Return True if a path of Linux leads to where users keep what they like, or through what is hidden."""
    return _LOOSE.match(path) is not None


def is_of_packages(path: str) -> bool:
    """Return True if a path of Linux leads to where a distribution's programs lie."""
    return _OF_PACKAGES.match(path) is not None and not is_loose(path)
