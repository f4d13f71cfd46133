"""`python -m jaxneox.evaluate`: the same as `jaxneox evaluate`."""

from jaxneox.evaluate.command import main

if __name__ == "__main__":
    main()
