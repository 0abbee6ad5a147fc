"""Imports early, runs late: a process that is warm by the time it may begin.

Run as a module: `python -m infra.embedded.gate MODULES TARGET [ARGUMENT...]` imports MODULES (separated by commas), waits
for the end of its standard input, and becomes `python -m TARGET ARGUMENT...`. Imports take most of a start, and need
neither broker nor database.
"""

from __future__ import annotations

import runpy
import sys
from importlib import import_module

if __name__ == "__main__":
    modules, target, *arguments = sys.argv[1:]
    for module in modules.split(","):
        import_module(module)
    sys.stdin.buffer.read()
    sys.argv = [target, *arguments]
    runpy.run_module(target, run_name="__main__", alter_sys=True)
