"""`python -m infra.cli` is `triplane`."""

from infra.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
