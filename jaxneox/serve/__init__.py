"""An OpenAI-compatible endpoint: `jaxneox serve CKPT`.

`server` owns the process, `scheduler` the thread of the engine; between them a request goes through
`app` -> `completions` -> `requests` (what it asks for) -> `jobs` -> `replies` (its answer).
"""
