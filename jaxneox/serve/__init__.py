"""An OpenAI-compatible endpoint: `jaxneox serve CKPT`.

`server` owns the process, `scheduler` the thread of the engine; between them a request goes
`app` -> `completions` -> `requests` (what is asked) -> `jobs` -> `replies` (what is said).
"""
