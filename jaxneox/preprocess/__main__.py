"""`python -m jaxneox.preprocess`: the same as `jaxneox preprocess`."""

from jaxneox.preprocess.command import main

if __name__ == "__main__":
    main()
