"""Energy, power, carbon and cost of this machine and its runs, for dashboards.

The call chain, in order::

    exporter = Exporter(MachineRecording(sensors))  # export.exporter: what is measured, and when
      MachineRecording                              #   export.machine_recording: rolling traces
      LiveRecordings().scan()                       #   export.live_recordings: runs on this machine
      EnergyCounters.update(reader, now_ns)         #   export.counters: energy that only grows
    snapshot = exporter.snapshot()                  # export.exporter: frozen values
    registry(exporter, machine)                     # export.metrics: Prometheus
    register_instruments(exporter, provider)        # export.instruments: OpenTelemetry
    dashboard()                                     # export.dashboard: Grafana
"""
