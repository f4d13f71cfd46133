"""`python -m jaxneox.plan`: the same as `jaxneox plan`."""

from jaxneox.plan.command import main

if __name__ == "__main__":
    main()
