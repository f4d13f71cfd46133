"""`python -m jaxneox.coord_check`: the same as `jaxneox coord-check`."""

from jaxneox.coord_check.command import main

if __name__ == "__main__":
    main()
