"""What every Portway process stands on: tasks, clocks, rates, settings, certificates, logs, a process's life."""
