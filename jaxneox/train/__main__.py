"""`python -m jaxneox.train`: the same as `jaxneox train`."""

from jaxneox.train.command import main

if __name__ == "__main__":
    main()
