"""Train a GPT-NeoX model: `python train.py --help`, the same as `jaxneox train`."""

from jaxneox.train.command import main

if __name__ == "__main__":
    main()
