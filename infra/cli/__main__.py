"""`python -m infra.cli` is `triplane`."""

from infra.cli import main
from infra.cli.streams import open_streams

if __name__ == "__main__":
    open_streams()
    raise SystemExit(main())
