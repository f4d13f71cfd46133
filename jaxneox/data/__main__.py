"""`python -m jaxneox.data`: the same as `jaxneox data`."""

import sys

from jaxneox.cli import main

if __name__ == "__main__":
    main(["data", *sys.argv[1:]])
