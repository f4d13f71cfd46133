"""Train a GPT-NeoX model: `python train.py --help`."""

from jaxneox.cli import main

if __name__ == "__main__":
    main()
