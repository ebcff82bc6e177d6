"""Where the settings of the service manager are that a command is to change, and the log, of a program of the cluster.

A program says its unit; on a machine that `portway-server` runs that is one for both. Of a program that does not
answer, is of an earlier release or runs in a container the unit is not known.
"""


def set_limit(unit: str, setting: str) -> str:
    """The beginning of a sentence: raise LimitNOFILE, or set it to a value. `unit` is "" where it is not known."""
    if unit:
        return f"{setting} in its unit (`systemctl edit {unit}`)"
    return f"{setting} in its unit, or the limit of open files of its container"


def at_either(command: str, program: str) -> str:
    """A command about a program's unit, which is not known."""
    return f"`{command} portway-server`, or `{command} {program}` where it runs by itself"
