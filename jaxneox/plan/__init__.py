"""What a run needs and how long it takes, on machines that are not here: `jaxneox plan`.

- `command`: the command and its options; `setup`: YAML files to the plan of a run on a mesh.
- `topology`, `chips`, `gpus`: the devices, a chip's rates, and GPUs as a compiler knows them.
- `plugins`: the compilers of devices that are not here, before and while jax starts.
- `planned`: the compiled step and its figures: memory (`total` is what one device needs), MFU and
  days; `TooLarge` if the compiler finds no room.
- `gpu_memory`: what of a GPU's memory is not the program's.
- `times`: how long the step takes, with and without overlap of sending and computing, by the links
  of a torus; `switched`: those of hosts with GPUs; `timeline`: a layer's work in order, for the
  page's picture.
- `search`: meshes and settings, ranked by formulas of memory and time (pipeline bubble, ZeRO,
  recomputation, the share of a chip's peak that it counts on); `best`: the likely best, compiled.
- `report`, `page`, `figures`: a plan in words, as an HTML page, and as numbers for a program;
  `side_by_side`: the figures of several topologies, each planned in a process of its own.
"""
