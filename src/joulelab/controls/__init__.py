"""Power limits and clocks of devices. They are borrowed: a guard restores the values it found.

:func:`~joulelab.controls.machine_controls.find_controls` finds what can be set on this machine, and
why the rest cannot. Finding and reading need no rights, so that a search can be planned without
them. :func:`~joulelab.controls.borrowing.borrow` locks the devices, checks the rights, saves what
it found, starts the guard, and only then lets a program set anything::

    from joulelab.controls.borrowing import borrow
    from joulelab.controls.machine_controls import find_controls

    found = find_controls()  # of the GPUs that CUDA_VISIBLE_DEVICES allows, and of processors
    limits = [one for one in found.controls if one.name == "power_limit"]
    for control in limits:
        print(control.component, control.read(), control.unit, control.low, control.high)
    with borrow(limits) as borrowed:  # raises ControlError without the right to set them
        for power_limit in (300, 250, 200):
            borrowed.set({"power_limit": power_limit})  # of every GPU
            train_some_steps()

The values found are restored at the end of the block, and by the guard if the program ends in any
other way. :func:`~joulelab.controls.saved_state.restore_all` restores what is left if the guard was
killed, too.
"""
