"""Energy of spans, estimated from the readings of a trace, with intervals and idle power.

The call chain, in order::

    trace = read_trace(directory)                  # recording.trace: readings and events
    estimator = EnergyEstimator(trace, baseline)   # energy.estimator
      find_incidents(trace)                        #   energy.incidents: gaps, resets, suspends
      Attribution(trace)                           #   energy.attribution: who used the machine
      Source(channel, readings, ...)               #   energy.signal: one for each channel
    energy, = estimator.energies([window])
      span_energies(sources, ...)                  #   energy.signal.span_energies: in parts if many
        curve = energy_curve(sources, edges_s)     #   energy.signal: ALL signal processing
        curve.energy(start_s, stop_s)              #   energy.signal.curve: joules, uncertainty, gap
      baseline.power(component, source, time_s)    #   energy.baseline: idle power, its drift
      ComponentEnergy(...)                         #   energy.component_energy: gross, idle, net
      Nesting.of(channels)                         #   energy.nesting: what is added, what encloses
    Energy(components=..., absent=..., notes=...)  # energy.energy: the sum, printed and as JSON

Energy is a pure function of trace, window and baseline, for live, finished, crashed, imported and
simulated recordings.
"""
