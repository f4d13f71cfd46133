"""`python -m jaxneox.serve`: the same as `jaxneox serve`."""

from jaxneox.serve.command import main

if __name__ == "__main__":
    main()
