"""`medpretrain3d` and `python -m medpretrain3d`: signals are taken before anything else is imported, then `cli` begins.

The imports of the command line take half a second and those of a stage several, on a shared disk ten times that: told
to end meanwhile, by SLURM's notice above all, a program has to know what that means (`interruption`).
"""

from __future__ import annotations

from medpretrain3d.interruption import signals


def main() -> int:
    """Run one command, or a stage; see `cli.main`."""
    signals.take()
    from medpretrain3d.cli import main as run

    return run()


if __name__ == "__main__":
    raise SystemExit(main())
