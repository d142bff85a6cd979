"""Energy of language models in service: joules per token, prefill and decode apart.

The chain, in order::

    requests = read_requests(path)            # llm.request_files: any known request log
    log = read_logs([power])                  # joulelab.logs, or a recording of the meter's
    tokens = attribute(requests, trace, ...)  # llm.token_attribution: power explained by tokens
      activity = ServerActivity(requests)     #   llm.server_activity: what the server did when
    LlmResult(...)                            # llm.result: totals, tokens, requests, as JSON

``joulelab llm bench`` makes both the requests (``llm.load``) and the recording itself.
"""
