"""Energy of language models in service: joules per token, prefill and decode apart.

The chain, in order::

    requests = read_requests(path)            # llm.request_files: any known request log
    log = read_logs([power])                  # joulelab.logs, or a recording of the meter's
    tokens = attribute(requests, trace, ...)  # llm.token_attribution: power explained by tokens
      assumed = plausible_activities(...)     #   llm.server_activity: what the server did when
      readings = power_readings(trace, ...)   #   llm.sensor_response: what a reading stands for
      fit = fit_power(requests, assumed, ...) #   llm.power_fit: power explained by both
    LlmResult(...)                            # llm.result: totals, tokens, requests, as JSON

``joulelab llm bench`` makes both the requests and the recording itself::

    run_bench(client, options, directory)     # llm.bench: idle, warm-up and levels, one recording
      LoadGenerator(client, prompts).run(...) #   llm.load: closed or open loop
        client.complete(prompt, tokens)       #     llm.openai_client: one request, its chunks
      level_result(...)                       #   llm.level_analysis: latencies, attribute(...)
      find_knee(costs)                        #   llm.sweep: where a token gets no cheaper
    BenchResult(...)                          # llm.bench_result: levels, totals, as JSON
"""
