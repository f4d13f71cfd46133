"""`python -m jaxneox.compare`: the same as `jaxneox compare`."""

from jaxneox.compare.command import main

if __name__ == "__main__":
    main()
