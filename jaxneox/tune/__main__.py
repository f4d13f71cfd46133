"""`python -m jaxneox.tune`: the same as `jaxneox tune`."""

from jaxneox.tune.command import main

if __name__ == "__main__":
    main()
