"""Energy, power, carbon and cost of this machine and its runs, for dashboards.

The call chain, in order::

    exporter = Exporter(MachineRecording(sensors))  # export.exporter: what is measured, and when
      MachineRecording                              #   export.machine_recording: rolling traces
      LiveRecordings().scan()                       #   export.live_recordings: runs on this machine
      EnergyCounters(trace, start_ns).update()      #   export.counters: energy that only grows
        SpanCounters                                #     export.span_counters: of spans by name
    snapshot = exporter.snapshot()                  # export.exporter: frozen values
    serve(exporter, ...), write(exporter, ...)      # export.service: until the end is requested
      metrics_of(exporter)                          #   export.metrics: Prometheus
    send(exporter, ...)                             # export.instruments: OpenTelemetry
    dashboard()                                     # export.dashboard: Grafana
"""
