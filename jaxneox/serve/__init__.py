"""An OpenAI-compatible endpoint: `jaxneox serve CKPT`.

`server` owns the process, `scheduler` the thread of the engine; between them a request goes through
`app` -> `completions` -> `requests` (what it asks for) -> `jobs` -> `replies` (its answer).

- `command`, `arguments`: the command and its options.
- `connections`: their number, and the time that each has to send a request and to read its answer.
- `access`: who is answered: names of this server, and a key.
- `app`: the routes, and what `/v1/models` tells of the model.
- `completions`: `/v1/completions` and chat's; an `Exchange` waits for a request's jobs, streams
  their text as server-sent events, at last the usage, and cancels them if the client leaves.
- `requests`, `fields`, `sampling_fields`: the parsing of a request; `chat_requests`, `messages`:
  of a conversation;
  `unsupported`, `unsupported_chat`: the fields of others' servers that are taken only where they
  change nothing.
- `jobs`: one choice of a request, on its way through the scheduler. Its text, as far as no stop
  string can begin in it, is `jaxneox.infer.stream`'s; `jaxneox.infer.tasks` ends it at a token, a
  stop string or the limit.
- `replies`, `chat_replies`: answers in OpenAI's formats, whole or as chunks; `offsets`: where in
  the text each token begins; `errors`: errors as OpenAI writes them.
- `served`: a model, and the limits of what may be asked of it; `models`: all of them by name, and
  which have a cache; `running`: their answers, in turn; `adapters`: what `--adapter` asks for.
"""
