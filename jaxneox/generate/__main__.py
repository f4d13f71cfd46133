"""`python -m jaxneox.generate`: the same as `jaxneox generate`."""

from jaxneox.generate.command import main

if __name__ == "__main__":
    main()
