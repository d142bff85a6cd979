"""Self-test of the sensors of this machine, for ``joulelab doctor --check``.

The call chain, in order::

    run_self_test()                    # doctor.self_test: records a pause and a load
      LoadPattern, Load                #   doctor.load_pattern: a load at known times
      examine(trace, idle, pattern)    #   doctor.verdicts: agreement, noise, timing, verdicts
"""
