"""The package as a stranger installs it: `python -m tests.package`, or `make package`.

The wheel goes into an empty environment, and every command is tried in a folder that has a
`convert.py` and a folder `jaxneox` of its own. Some two minutes; what the environment needs is
installed from the registry.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TINY = {
    "num-layers": 2, "hidden-size": 32, "num-attention-heads": 4, "seq-length": 32,
    "max-position-embeddings": 32, "pos-emb": "rotary", "no-weight-tying": True,
    "optimizer": {"type": "Adam", "params": {"lr": 0.01}}, "train-batch-size": 4,
    "train-iters": 4, "eval-iters": 0, "data-path": "text.txt",
    "tokenizer-type": "CharLevelTokenizer",
}  # fmt: skip


class Stranger:
    """Somebody with an empty environment and a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.folder = folder / "venv" / "bin", folder / "work"
        self.folder.mkdir()
        (self.folder / "convert.py").write_text("raise SystemExit('another convert')\n")
        (self.folder / "jaxneox").mkdir()
        (self.folder / "text.txt").write_text("the quick brown fox\n" * 200)
        (self.folder / "tiny.yml").write_text(json.dumps(TINY))
        kept = {"PATH", "HOME", "TMPDIR", "LANG"}
        self.env = {name: value for name, value in os.environ.items() if name in kept}
        self.env |= {"JAXNEOX_CACHE": str(folder / "cache"), "JAX_PLATFORMS": "cpu"}

    def install(self, wheel: Path) -> None:
        self._call([sys.executable, "-m", "venv", str(self.bin.parent)])
        pip = [str(self.bin / "python"), "-m", "pip", "install", "--quiet"]
        constraints = str(ROOT / "constraints.txt")
        self._call([*pip, "-c", constraints, f"jaxneox[serve] @ {wheel.resolve().as_uri()}"])

    def start(self, *words: str) -> subprocess.Popen[str]:
        line = [str(self.bin / "jaxneox"), *words]
        return subprocess.Popen(line, cwd=self.folder, env=self.env, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip

    def types(self, *words: str, expect: str = "") -> None:
        began = time.monotonic()
        self._ended(self.start(*words), words, expect)
        print(f"{time.monotonic() - began:5.1f} s  jaxneox {' '.join(words)}", flush=True)

    def types_together(self, *words: str) -> None:
        """Two processes of one run."""
        address = f"localhost:{free_port()}"
        group = ("--mesh", "dp=2", "--coordinator", address, "--num-processes", "2")
        both = [self.start(*words, *group, "--process-id", str(i)) for i in range(2)]
        for process in both:
            self._ended(process, words, "")
        print(f"         jaxneox {' '.join(words)}, by two processes", flush=True)

    def serves(self, run: str) -> None:
        address = f"http://127.0.0.1:{(port := free_port())}"
        server = self.start("serve", run, "--port", str(port))
        body = json.dumps({"prompt": "the ", "max_tokens": 4}).encode()
        head = {"Content-Type": "application/json"}
        try:
            for _ in range(120):
                time.sleep(1)
                request = urllib.request.Request(f"{address}/v1/completions", body, head)
                try:
                    with urllib.request.urlopen(request, timeout=60) as answer:
                        assert json.load(answer)["choices"][0]["text"]
                    break
                except OSError:  # not ready yet
                    assert server.poll() is None, server.communicate()[0]
            else:
                raise AssertionError("the server did not answer within two minutes")
        finally:
            server.terminate()
            server.wait(60)
        print(f"         jaxneox serve {run}", flush=True)

    def _ended(self, process: subprocess.Popen[str], words: tuple[str, ...], expect: str) -> None:
        out, _ = process.communicate(timeout=600)
        assert process.returncode == 0 and expect in out, f"{words}: {process.returncode}\n{out}"

    def _call(self, line: list[str]) -> None:
        subprocess.run(line, check=True, cwd=self.folder, env=self.env)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "-w",
            name,
            str(ROOT),
        ]
        subprocess.run(build, check=True)
        stranger = Stranger(folder)
        stranger.install(next(folder.glob("jaxneox-*.whl")))
        stranger.types(expect="jaxneox convert from-neox")
        stranger.types("--version", expect="jaxneox ")
        stranger.types("train", "pythia-70m", "--dry-run", expect="70,426,624 parameters")
        stranger.types(
            "train", "--set", "train-iters=5", "eval-iters=0", expect="runs/stdlib/step_5"
        )
        stranger.types("train", "tiny.yml", "--save", "one", "--restarts", "1", expect="one/step_4")
        stranger.types_together("train", "tiny.yml", "--save", "two")
        stranger.types("inspect", "one", expect="jaxneox: Orbax")
        stranger.types("convert", "to-hf", "one", "hf", expect="the same function")
        stranger.types("convert", "from-hf", "hf", "back", expect="the same function")
        stranger.types("verify", "one", "back", expect="the same function")
        stranger.types("generate", "one", "--prompt", "the quick", "--max-tokens", "4")
        stranger.serves("one")
    print("the package works where nothing else is")


if __name__ == "__main__":
    main()
