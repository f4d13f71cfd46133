"""What a run needs and how long it takes, on machines that are not here: `jaxneox plan`.

- `command`: the command and its options; `setup`: YAML files to the plan of a run on a mesh.
- `topology`, `chips`: the devices, and the rates of a chip.
- `planned`: the compiled step, and its figures: `total` is the bytes of a device that are shown.
- `known_memory`: bytes that are known without compiling.
- `times`: how long the step takes; `timeline`: a layer's work in order.
- `search`: meshes and settings, ranked by formulas; `best`: the likely best, compiled.
- `report`, `page`: a plan in words, and as an HTML page.
"""
