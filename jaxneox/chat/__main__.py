"""`python -m jaxneox.chat`: the same as `jaxneox chat`."""

from jaxneox.chat.command import main

if __name__ == "__main__":
    main()
