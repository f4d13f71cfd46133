"""`python -m jaxneox.precompute`: the same as `jaxneox precompute`."""

from jaxneox.precompute.command import main

if __name__ == "__main__":
    main()
