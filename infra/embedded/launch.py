"""Becomes another program: one that dies with its parent and, where asked, is not root.

Run as a script: `launch.py PARENT SIGNAL USER PROGRAM [ARGUMENT...]`. PARENT is the pid whose death sends SIGNAL; USER is
a login name or empty. A script of its own, because between fork and exec of a program with threads little is safe.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_SET_SECUREBITS = 28
SECBIT_NO_SETUID_FIXUP = 1 << 2
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAP_DAC_OVERRIDE = 1
CAP_SETPCAP = 8
CAPABILITY_VERSION_3 = 0x20080522


def become(user: str, program: str) -> None:
    """Give up root for `user`.

    Where that user may not even enter the directories above the program or the current directory (a home below /root,
    or in a private temporary directory), it keeps the one capability to pass them; nobody's permissions are changed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    keeps = sys.platform == "linux" and libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) == 0
    entry = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    if os.access(program, os.X_OK) and os.access(Path.cwd(), os.X_OK):
        return
    if not (keeps and _keep_passing(libc)):
        sys.exit(
            f"PostgreSQL does not run as root, and user {user!r} may not enter {Path.cwd()}: choose another place with --home, "
            "allow others to pass the directories above it (chmod o+x), or start as an ordinary user"
        )


def _keep_passing(libc: ctypes.CDLL) -> bool:
    """Keep CAP_DAC_OVERRIDE alone, through exec, and for the access() with which PostgreSQL looks at itself."""
    return (
        _hold(libc, 1 << CAP_DAC_OVERRIDE | 1 << CAP_SETPCAP)
        and libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0) == 0
        and _hold(libc, 1 << CAP_DAC_OVERRIDE)
        and libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0) == 0
    )


def _hold(libc: ctypes.CDLL, mask: int) -> bool:
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    effective_permitted_inheritable = (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)
    return bool(libc.capset(header, effective_permitted_inheritable) == 0)


def main() -> None:
    """Give up root, tie this process to its parent, become the program."""
    parent, signal, user, *command = sys.argv[1:]
    if user:
        become(user, command[0])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal), 0, 0, 0)
        if os.getppid() != int(parent):
            sys.exit("the starting process is gone")
    os.execv(command[0], command)  # noqa: S606 - becoming that program is the purpose


if __name__ == "__main__":
    main()
